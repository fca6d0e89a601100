"""Spectra of weights: stable rank, tail exponent, and what is left of a matrix at low rank. Need no data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ...anatomy import KINDS, Anatomy, base_model
from ...errors import GuidedError
from ...selection.scoremap import ScoreMap
from ...system.progress import track
from ...task.task import Task
from ..watch.fold import Sums, fold, sums
from ..watch.scene import float_weight


def stable_rank(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task | None = None,
    *,
    kinds: tuple[str, ...] = ("layer", "head"),
    progress: bool | None = None,
) -> ScoreMap:
    """Score components by the stable rank of their weights.

    ::

        stable rank(W) = ||W||_F^2 / ||W||_2^2         (1: everything in one direction; Rudelson & Vershynin 2007)
        layer = mean over its projections;  head = stable rank of its columns of the out-projection

    Cost: singular values of every projection, no pass. Data: none; adapters are left out. Layers, heads (a
    neuron's column has rank 1).
    """
    return _spectra(model, anatomy, kinds, "stable_rank", _stable_rank, progress)


def tail_exponent(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task | None = None,
    *,
    kinds: tuple[str, ...] = ("layer",),
    tail: float = 0.5,
    progress: bool | None = None,
) -> ScoreMap:
    """Score layers by the power law in the spectra of their weights.

    ::

        alpha(W) = 1 + k / sum over the k largest eigenvalues l of W'W of ln(l / smallest of them)   (Hill estimator)
        layer    = mean over its projections

    Large alpha: a light tail, taken for a sign of a layer that is trained little (AlphaLoRA: Qing et al. 2024, arXiv
    2410.10054, which gives such layers more experts).

    Args:
        tail: share of the eigenvalues that counts as the tail.

    Cost: singular values of every projection, no pass. Data: none; adapters are left out. Layers only.
    """
    if not 0 < tail <= 1:
        raise GuidedError(f"tail: expected a share above 0 up to 1, got {tail}")
    return _spectra(model, anatomy, kinds, "tail_exponent", lambda s: _hill(s, tail), progress)


def low_rank(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task | None = None,
    *,
    kinds: tuple[str, ...] = KINDS,
    rank: int = 32,
    progress: bool | None = None,
) -> ScoreMap:
    """Score components by the size of their weights after all but the largest singular values are taken away.

    ::

        score = sum over the component's weights of |W_r|,   W_r the best approximation of W at rank r

    (LIFT: Liu et al. 2025, arXiv 2506.00772, which trains the largest entries of W_r.)

    Args:
        rank: r; matrices of lower rank stay whole.

    Cost: a singular value decomposition of every projection, no pass. Data: none; adapters are left out. Layers, heads,
    neurons.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise GuidedError(f"rank: expected a number from 1 up, got {rank!r}")
    base = base_model(model)
    count = sum(len(anatomy.names_in(layer)) for layer in range(anatomy.num_layers))
    bar = track(range(count), count, "low_rank", progress)

    def of(name: str) -> Sums:
        next(bar)
        u, s, v = torch.linalg.svd(float_weight(base, name, "low_rank"), full_matrices=False)
        return sums((u[..., :rank] * s[..., None, :rank] @ v[..., :rank, :]).abs(), anatomy.rows_axis_of(name))

    return ScoreMap.of_arrays(anatomy, fold(anatomy, of, kinds), {"passes": 0})


def _spectra(
    model: nn.Module,
    anatomy: Anatomy,
    kinds: tuple[str, ...],
    method: str,
    of: Callable[[torch.Tensor], torch.Tensor],
    progress: bool | None,
) -> ScoreMap:
    """Mean over projections for layers, of the out-columns for heads; ``of``: singular values ``[..., n] -> [...]``."""
    base = base_model(model)
    layers, heads = [], []
    for layer in track(range(anatomy.num_layers), anatomy.num_layers, method, progress):
        if "layer" in kinds:
            names = [anatomy.module(layer, name) for name in anatomy.names_in(layer)]
            values = [of(torch.linalg.svdvals(float_weight(base, name, method))).mean() for name in names]
            layers.append(float(torch.stack(values).mean()) if values else 0.0)
        if "head" in kinds and not anatomy.has_any("head", layer):
            heads.append(np.zeros(anatomy.num_heads))
        elif "head" in kinds:
            weight = float_weight(base, anatomy.out_module(layer), method)
            columns = (weight if anatomy.rows_axis == 0 else weight.T).unflatten(1, (anatomy.num_heads, -1))
            heads.append(of(torch.linalg.svdvals(columns.transpose(0, 1))).cpu().numpy())
    arrays = {"layer": np.array(layers), "head": np.array(heads)}
    return ScoreMap.of_arrays(anatomy, {kind: arrays[kind] for kind in kinds}, {"passes": 0})


def _stable_rank(s: torch.Tensor) -> torch.Tensor:
    squares = s.double().square()
    return squares.sum(-1) / squares[..., 0].clamp(min=torch.finfo(torch.float64).tiny)


def _hill(s: torch.Tensor, tail: float) -> torch.Tensor:
    eigenvalues = s.double().square().clamp(min=torch.finfo(torch.float64).tiny)
    count = max(2, int(tail * s.shape[-1]))
    kept = eigenvalues[..., :count].log()
    return 1 + count / (kept - kept[..., -1:]).sum(-1).clamp(min=1e-12)
