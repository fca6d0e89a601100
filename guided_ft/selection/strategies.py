"""The strategies of spending a budget: on units (heads, neurons, layers), and on directions. Imports no torch."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from ..errors import GuidedError
from .directions import DirectionMap


# -- units: from the scores of one kind to priorities, higher first ----------------------------------------------------
def _top(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return scores


def _bottom(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return -scores


def _random(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.random(scores.shape)


def _shuffled(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deal each layer's scores out among its components anew: do the units matter, or only their layers?"""
    return rng.permuted(scores.reshape(len(scores), -1), axis=1).reshape(scores.shape)


STRATEGIES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "top": _top,
    "bottom": _bottom,
    "random": _random,
    "shuffled": _shuffled,
}

Bases = dict[str, np.ndarray]
"""Directions ``[r, in]`` by the full name of a layer."""

Ranks = dict[str, int]
"""How many, by the same name."""


# -- directions: how many each layer gets ------------------------------------------------------------------------------
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


# -- directions: which they are ----------------------------------------------------------------------------------------
def _located(found: DirectionMap, ranks: Ranks, seed: int) -> Bases:
    return {name: found.bases[name][:r] for name, r in ranks.items()}


def _random_bases(found: DirectionMap, ranks: Ranks, seed: int) -> Bases:
    """Orthonormal directions that know nothing of the task; of a higher rank the first ones are the same."""
    bases = {}
    for name, r in ranks.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        drawn = rng.standard_normal((r, found.bases[name].shape[1]))
        q, upper = np.linalg.qr(drawn.T)
        bases[name] = np.ascontiguousarray((q * np.sign(np.diag(upper))).T, dtype=np.float32)
    return bases


def _shuffled_bases(found: DirectionMap, ranks: Ranks, seed: int) -> Bases:
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

DIRECTION_STRATEGIES: dict[str, tuple[Spending, Choosing]] = {
    "top": (_by_score, _located),
    "even": (_evenly, _located),
    "random": (_by_score, _random_bases),
    "random_even": (_evenly, _random_bases),
    "shuffled": (_by_score, _shuffled_bases),
}
