"""Combinations of score maps: small functions from two maps to one. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import GuidedError
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

    return _both(target, retain, divide, "ratio")


def difference(target: ScoreMap, retain: ScoreMap, weight: float = 1.0) -> ScoreMap:
    """``target - weight * retain``, in the unit of the scores."""
    return _both(target, retain, lambda kind, a, b: a - weight * b, "difference", weight=weight)


TWO_SIDED: dict[str, Callable[..., ScoreMap]] = {"ratio": ratio, "difference": difference}
"""How ``localize`` can combine the map of the task with that of the retain set."""


def _both(
    one: ScoreMap, other: ScoreMap, function: Callable[..., np.ndarray], name: str, **settings: float
) -> ScoreMap:
    if other.anatomy != one.anatomy:
        raise GuidedError(f"{name}: the maps are of different models")
    if other.kinds != one.kinds:
        raise GuidedError(f"{name}: one map has {', '.join(one.kinds)}, another {', '.join(other.kinds)}")
    arrays = {k: function(k, *(m.of(k).astype(np.float64) for m in (one, other))) for k in one.kinds}
    return ScoreMap.of_arrays(one.anatomy, arrays, {"method": name, **settings, "of": [one.meta, other.meta]})
