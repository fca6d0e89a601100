"""Magnitude: how large a component's weights are. Needs no data."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ...anatomy import KINDS, Anatomy, bare, base_model, stored_weight
from ...selection.scoremap import ScoreMap
from ...slice.storage import is_quantized, storage_of
from ...task.task import Task
from ..watch.fold import fold, squares


def magnitude(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task | None = None,
    *,
    kinds: tuple[str, ...] = KINDS,
    progress: bool | None = None,
) -> ScoreMap:
    """Score components by the Euclidean norm of the weights they own: ``sqrt(sum(w^2))``. No pass, no data.

    The weights are the base model's own, without adapters. Quantized weights are measured as what they stand for.
    """
    base = base_model(model)

    def read(name: str) -> torch.Tensor:
        weight = stored_weight(base, name)
        if not is_quantized(weight):
            return weight
        layer = bare(base.get_submodule(name))
        return storage_of(layer).read(layer)

    folded = fold(anatomy, lambda name: squares(read(name), anatomy.rows_axis_of(name)), kinds)
    return ScoreMap.of_arrays(anatomy, {kind: np.sqrt(array) for kind, array in folded.items()}, {"passes": 0})
