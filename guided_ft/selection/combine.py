"""Combinations of score maps: small functions from maps to a map. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..errors import GuidedError
from .correlation import standings
from .scoremap import ScoreMap

FLOOR = 0.1
"""Share of the mean retain score that is added below the ratio, so that a unit which retains nothing cannot win by
division by almost zero."""


def ratio(target: ScoreMap, retain: ScoreMap) -> ScoreMap:
    """``target / (retain + 0.1 * mean of retain)``: high for what matters for the task and not for everything else.

    Both maps must be without negative scores. A retain map of zeros leaves the target as it is.
    """

    def divide(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if min(a.min(), b.min()) < 0:
            raise GuidedError(f"ratio: the {kind} scores are signed (use combine='difference', or retain=None)")
        floor = FLOOR * float(b.mean())
        return a / (b + floor) if floor > 0 else a

    return _each([target, retain], divide, "ratio")


def difference(target: ScoreMap, retain: ScoreMap, weight: float = 1.0) -> ScoreMap:
    """``target - weight * retain``, in the unit of the scores."""
    return _each([target, retain], lambda kind, a, b: a - weight * b, "difference", weight=weight)


def mean(maps: Sequence[ScoreMap]) -> ScoreMap:
    """The mean score of each component, over tasks or seeds of one method."""
    return _each(maps, lambda kind, *arrays: np.mean(arrays, 0), "mean")


def rank_average(maps: Sequence[ScoreMap]) -> ScoreMap:
    """The mean rank of each component among its kind, from 0 (lowest) to 1: for methods with different units."""

    def average(kind: str, *arrays: np.ndarray) -> np.ndarray:
        # One component has no rank among its kind; it is neither high nor low.
        parts = [standings(a.ravel()) / (a.size - 1) if a.size > 1 else np.full(1, 0.5) for a in arrays]
        return np.mean(parts, 0).reshape(arrays[0].shape)

    return _each(maps, average, "rank_average")


def product(maps: Sequence[ScoreMap]) -> ScoreMap:
    """The product of the scores of each component: high only where all maps are."""
    return _each(maps, lambda kind, *arrays: np.prod(arrays, 0), "product")


TWO_SIDED: dict[str, Callable[..., ScoreMap]] = {"ratio": ratio, "difference": difference}
"""How ``localize`` can combine the map of the task with that of the retain set."""


def _each(maps: Sequence[ScoreMap], function: Callable[..., np.ndarray], name: str, **settings: float) -> ScoreMap:
    if not maps:
        raise GuidedError(f"{name}: no maps to combine")
    first = maps[0]
    for other in maps[1:]:
        if other.anatomy != first.anatomy:
            raise GuidedError(f"{name}: the maps are of different models")
        if other.kinds != first.kinds:
            raise GuidedError(f"{name}: one map has {', '.join(first.kinds)}, another {', '.join(other.kinds)}")
    arrays = {k: function(k, *(m.of(k).astype(np.float64) for m in maps)) for k in first.kinds}
    return ScoreMap.of_arrays(first.anatomy, arrays, {"method": name, **settings, "of": [m.meta for m in maps]})
