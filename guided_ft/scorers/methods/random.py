"""Random: seeded noise, the control that every other method should beat."""

from __future__ import annotations

import numpy as np
from torch import nn

from ...anatomy import KINDS, Anatomy
from ...selection.scoremap import ScoreMap
from ...task.task import Task


def random(
    model: nn.Module | None,
    anatomy: Anatomy,
    task: Task | None = None,
    *,
    kinds: tuple[str, ...] = KINDS,
    seed: int = 0,
    progress: bool | None = None,
) -> ScoreMap:
    """Score components by independent uniform numbers in [0, 1). No pass, no data."""
    rng = np.random.default_rng(seed)
    arrays = {kind: rng.random((anatomy.num_layers, anatomy.size(kind))) for kind in KINDS}
    for kind, array in arrays.items():
        array[[i for i in range(anatomy.num_layers) if not anatomy.has_any(kind, i)]] = 0
    return ScoreMap.of_arrays(anatomy, {kind: arrays[kind] for kind in kinds}, {"passes": 0})
