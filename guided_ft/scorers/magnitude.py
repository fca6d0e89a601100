"""Magnitude: how large a component's weights are. Needs no data."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from ..anatomy import KINDS, Anatomy, base_model, stored_weight
from ..scoremap import ScoreMap
from .fold import fold, squares


def magnitude(
    model: nn.Module,
    anatomy: Anatomy,
    task: Any = None,
    *,
    kinds: tuple[str, ...] = KINDS,
    progress: bool | None = None,
) -> ScoreMap:
    """Score components by the Euclidean norm of the weights they own: ``sqrt(sum(w^2))``. No pass, no data."""
    base = base_model(model)
    folded = fold(anatomy, lambda name: squares(stored_weight(base, name), anatomy.rows_axis_of(name)), kinds)
    return ScoreMap.of_arrays(anatomy, {kind: np.sqrt(array) for kind, array in folded.items()}, {"passes": 0})
