"""The directions of one layer, from the task's mean gradient and the retained text's inputs."""

from __future__ import annotations

import torch

from ...errors import GuidedError

OVERSAMPLE, ITERATIONS = 10, 3
"""Further columns and rounds of the subspace iteration: see ``top_directions``."""


def factorized(moment: torch.Tensor, ridge: float) -> torch.Tensor:
    """Cholesky factor ``L [in, in]`` of ``C = moment / mean eigenvalue + ridge * I``.

    Args:
        moment: ``[in, in]``, mean (or sum) over tokens of ``x x^T``.

    Raises:
        GuidedError: for a ridge that is lost in rounding, where fewer tokens than dimensions leave nothing else.
    """
    size = len(moment)
    scale = moment.trace() / size
    c = moment / scale.clamp(min=torch.finfo(moment.dtype).tiny)
    c.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(c)
    if failed:
        raise GuidedError(f"lam: {ridge:g} is lost in rounding (use 1e-4 or more, or retain more text)")
    return factor


def top_directions(
    gradient: torch.Tensor, factor: torch.Tensor | None, count: int, seed: int = 0, *, exact: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The top generalized eigenvectors of ``(G^T G, C)``: most gradient per change of what retained text gives.

    They are the right singular vectors of ``G L^-T``, mapped back by ``L^-T``, each scaled to length 1. A randomized
    range finder with subspace iteration finds them (Halko et al. 2011, arXiv 0909.4061, algorithms 4.4 and 5.1), or
    a full singular value decomposition where that is no dearer, or if ``exact``.

    Args:
        gradient: ``G [out, in]``.
        factor: ``L [in, in]`` with ``C = L L^T``; None: ``C = I``.
        count: how many; at most ``min(out, in)`` are found.
        seed: of the random start.

    Returns:
        The directions ``[k, in]``, best first, their eigenvalues ``[k]``, and what each output has in these ``[out]``.
    """
    outputs, inputs = gradient.shape
    whole = min(outputs, inputs)
    count = min(count, whole)
    width = count + OVERSAMPLE
    m = gradient if factor is None else torch.linalg.solve_triangular(factor, gradient.T, upper=False).T
    if exact or 2 * width > whole:
        vt = torch.linalg.svd(m, full_matrices=False)[2]
        vectors = vt[:count].T
    else:
        start = torch.randn(outputs, width, generator=torch.Generator().manual_seed(seed), dtype=m.dtype)
        y = m.T @ start.to(m.device)
        for _ in range(ITERATIONS):
            y = m.T @ (m @ torch.linalg.qr(y)[0])
        q = torch.linalg.qr(y)[0]
        inside = m @ q
        rotation = torch.linalg.eigh(inside.T @ inside)[1]
        vectors = q @ rotation.flip(-1)[:, :count]
    energy = (m @ vectors).square()
    # What rounding has put out of order.
    values, order = energy.sum(0).sort(descending=True, stable=True)
    vectors = vectors[:, order]
    if factor is not None:
        vectors = torch.linalg.solve_triangular(factor.T, vectors, upper=True)
    return (vectors / vectors.norm(dim=0)).T.contiguous(), values, energy.sum(1)
