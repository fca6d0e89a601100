"""``select_directions``: spend a budget of parameters on a map of directions. Imports no torch."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from ..errors import GuidedError, pick
from .budget import parse_budget
from .directions import DirectionMap
from .selection import Selection
from .subspace import Subspace

Bases = dict[str, np.ndarray]
Ranks = dict[str, int]


# -- ranks: how many directions each layer gets ------------------------------------------------------------------------
def _by_score(found: DirectionMap, modules: list[str], limit: int) -> Ranks:
    """Over all pairs of layer and direction, by score per parameter; the longest prefix of that order that fits."""
    pairs = [(-float(s) / found.outputs(m), i, m) for m in modules for i, s in enumerate(found.scores[m])]
    ranks: Ranks = {}
    for _, _, name in sorted(pairs):
        limit -= found.outputs(name)
        if limit < 0:
            break
        ranks[name] = ranks.get(name, 0) + 1
    return ranks


def _evenly(found: DirectionMap, modules: list[str], limit: int) -> Ranks:
    """The best direction of every layer, then the second of every layer, and so on, as far as the budget goes."""
    ranks: Ranks = {}
    for i in range(max(len(found.scores[m]) for m in modules)):
        for name in modules:
            if i < len(found.scores[name]):
                limit -= found.outputs(name)
                if limit < 0:
                    return ranks
                ranks[name] = i + 1
    return ranks


# -- bases: which directions these are -----------------------------------------------------------------------------
def _located(found: DirectionMap, ranks: Ranks, seed: int) -> Bases:
    return {name: found.bases[name][:r] for name, r in ranks.items()}


def _random(found: DirectionMap, ranks: Ranks, seed: int) -> Bases:
    """Orthonormal directions that know nothing of the task; of a higher rank the first ones are the same."""
    bases = {}
    for name, r in ranks.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        drawn = rng.standard_normal((r, found.bases[name].shape[1]))
        q, upper = np.linalg.qr(drawn.T)
        bases[name] = np.ascontiguousarray((q * np.sign(np.diag(upper))).T, dtype=np.float32)
    return bases


def _shuffled(found: DirectionMap, ranks: Ranks, seed: int) -> Bases:
    """The directions that were located for the same projection of another layer: is it the place or only the kind?"""
    anatomy = found.anatomy
    bases = {}
    for name, r in ranks.items():
        relative = anatomy.relative(name)
        others = [
            m for m in found.modules if anatomy.relative(m) == relative and len(found.bases[m]) >= r and m != name
        ]
        if not others:
            raise GuidedError(f"shuffled: {name} is the only one of its kind in the map (map more layers)")
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        bases[name] = found.bases[others[rng.integers(len(others))]][:r]
    return bases


Spending = Callable[[DirectionMap, list[str], int], Ranks]
Choosing = Callable[[DirectionMap, Ranks, int], Bases]

STRATEGIES: dict[str, tuple[Spending, Choosing]] = {
    "top": (_by_score, _located),
    "even": (_evenly, _located),
    "random": (_by_score, _random),
    "random_even": (_evenly, _random),
    "shuffled": (_by_score, _shuffled),
}


def select_directions(
    found: DirectionMap,
    budget: str | float | int = "1%",
    strategy: str = "top",
    *,
    seed: int = 0,
    first_layer: int = 0,
    within: Selection | None = None,
) -> Subspace:
    """Choose directions within a budget of parameters.

    A direction costs as many parameters as its layer has outputs. The budget is never exceeded, a larger one only adds
    (nested), and equal scores go by name.

    Args:
        found: the map to spend on. A map that was made without retained text gives the one-sided control.
        budget: ``"1%"``, ``0.01`` or a number of parameters.
        strategy: ``top``: by score per parameter, so that ranks differ by layer; ``even``: the best of every layer,
            then the second best of every layer, ...; ``random`` and ``random_even``: orthonormal random directions, of
            the ranks that ``top`` and ``even`` give; ``shuffled``: the ranks of ``top``, with the directions of the
            same projection in another layer.
        seed: of ``random`` and ``shuffled``.
        first_layer: leave the layers below this one alone.
        within: only the linear layers that hold one of these components.

    Raises:
        GuidedError: for an unknown strategy, or if the budget buys nothing.
    """
    spend, choose = pick(STRATEGIES, strategy, "strategy")
    anatomy = found.anatomy
    limit = parse_budget(budget, anatomy.num_parameters)
    if not 0 <= first_layer < anatomy.num_layers:
        raise GuidedError(f"first_layer: {first_layer}, but this model has layers 0 to {anatomy.num_layers - 1}")
    if within is not None and within.anatomy != anatomy:
        raise GuidedError("within: the selection is of another model than the map")
    held = None if within is None else {part.module for part in within.slices()}
    modules = [m for m in found.modules if anatomy.layer_of(m) >= first_layer and (held is None or m in held)]
    if not modules:
        raise GuidedError("select_directions: the map has no layer among those that are wanted (first_layer, within)")
    ranks = spend(found, modules, limit)
    if not ranks:
        least = min(found.outputs(m) for m in modules)
        raise GuidedError(f"budget: {budget} buys nothing: a direction costs {least:,} parameters (raise the budget)")
    how = {
        "method": found.meta.get("method"),
        "strategy": strategy,
        "budget": str(budget),
        "budget_parameters": limit,
        "seed": seed,
        "first_layer": first_layer,
        "within": None if within is None else within.text,
        "map": found.hash,
    }
    return Subspace(anatomy, choose(found, ranks, seed), how)
