"""Fold numbers about weights into numbers about components."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ...anatomy import Anatomy

Sums = tuple[torch.Tensor, torch.Tensor]


def sums(matrix: torch.Tensor, rows_axis: int) -> Sums:
    """Sums over the output rows ``[out]`` and over the input columns ``[in]`` of a matrix shaped like a weight.

    Experts come first where the weight has them: ``[experts, out]`` and ``[experts, in]``.
    """
    matrix = matrix.detach().float()
    inputs, outputs = (-2, -1) if rows_axis else (-1, -2)
    return matrix.sum(inputs).double(), matrix.sum(outputs).double()


def squares(matrix: torch.Tensor, rows_axis: int) -> Sums:
    """``sums`` of the squares of a stored weight."""
    return sums(matrix.detach().float().pow(2), rows_axis)


def owns_columns(anatomy: Anatomy, name: str) -> bool:
    """Whether components own columns of a projection (out and down), named relative to the layer, or rows."""
    return name in (anatomy.family.out, anatomy.family.down)


def fold(anatomy: Anatomy, of: Callable[[str], Sums], kinds: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Add up a quantity of single weights over the weights that each component owns; arrays by kind.

    A head owns its query rows, its out-columns and an equal share of its group's key and value rows; a neuron its
    up rows and its down-column; a layer all projections.

    Args:
        of: from the full name of a projection to its ``sums``. Only those of the columns are told apart where
            ``owns_columns``, only those of the rows elsewhere; of the others the total is all that is read.
    """
    family = anatomy.family
    layers, heads, neurons = [], [], []
    for layer in range(anatomy.num_layers):
        by_name = {name: of(anatomy.module(layer, name)) for name in anatomy.names_in(layer)}
        rows = {name: r.cpu().numpy() for name, (r, _) in by_name.items()}
        columns = {name: c.cpu().numpy() for name, (_, c) in by_name.items()}
        # 0 for what a layer does not have.
        head, neuron = np.zeros(anatomy.num_heads), np.zeros(anatomy.num_neurons)
        if anatomy.has_any("head", layer):
            head = rows[family.query.module][anatomy.head_rows(family.query)].sum(1)
            head = head + columns[family.out].reshape(anatomy.num_heads, -1).sum(1)
            for part in family.attention[1:]:
                group = rows[part.module][anatomy.head_rows(part)].sum(1)
                head = head + np.repeat(group / anatomy.heads_per_group, anatomy.heads_per_group)
        if anatomy.has_any("neuron", layer):
            neuron = columns[family.down] + sum(rows[r.module][..., anatomy.neuron_rows(r)] for r in family.up)
        layers.append(sum(r.sum() for r in rows.values()))
        heads.append(head)
        neurons.append(neuron.ravel())
    arrays = {"layer": np.array(layers), "head": np.stack(heads), "neuron": np.stack(neurons)}
    return {kind: arrays[kind] for kind in kinds}
