"""Fold numbers about weights into numbers about components."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..anatomy import Anatomy
from ..scoremap import ScoreMap

Squares = tuple[torch.Tensor, torch.Tensor]


def squares(matrix: torch.Tensor, rows_axis: int) -> Squares:
    """Sums of squares of the output rows ``[out]`` and of the input columns ``[in]`` of a stored weight.

    Experts' come first where the weight has them: ``[experts, out]`` and ``[experts, in]``.
    """
    square = matrix.detach().float().pow(2)
    inputs, outputs = (-2, -1) if rows_axis else (-1, -2)
    return square.sum(inputs).double().cpu(), square.sum(outputs).double().cpu()


def fold(anatomy: Anatomy, of: Callable[[str], Squares], kinds: tuple[str, ...], passes: int) -> ScoreMap:
    """Sum squares over the weights that each component owns.

    A head owns its query rows, its out-columns and an equal share of its group's key and value rows; a neuron its
    up rows and its down-column; a layer all projections.

    Args:
        of: from the full name of a projection to its ``squares``.
    """
    family = anatomy.family
    layers, heads, neurons = [], [], []
    for layer in range(anatomy.num_layers):
        by_name = {name: of(anatomy.module(layer, name)) for name in anatomy.shapes}
        rows = {name: r.numpy() for name, (r, _) in by_name.items()}
        columns = {name: c.numpy() for name, (_, c) in by_name.items()}
        head = rows[family.query.module][anatomy.head_rows(family.query)].sum(1)
        head = head + columns[family.out].reshape(anatomy.num_heads, -1).sum(1)
        for part in (family.key, family.value):
            group = rows[part.module][anatomy.head_rows(part)].sum(1)
            head = head + np.repeat(group / anatomy.heads_per_group, anatomy.heads_per_group)
        neuron = columns[family.down] + sum(rows[r.module][..., anatomy.neuron_rows(r)] for r in family.up)
        layers.append(sum(r.sum() for r in rows.values()))
        heads.append(head)
        neurons.append(neuron.ravel())
    arrays = {"layer": np.array(layers), "head": np.stack(heads), "neuron": np.stack(neurons)}
    return ScoreMap.of_arrays(anatomy, {kind: arrays[kind] for kind in kinds}, {"passes": passes})
