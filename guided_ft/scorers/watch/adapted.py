"""The weights that a model computes with: those of its projections and of the adapters around them."""

from __future__ import annotations

from typing import Any

import torch

from ...anatomy import bare, stored_weight
from .experts import refuse_adapter
from .scene import Scene, float_weight
from .unembed import pull_back


def adapted_weight(scene: Scene, name: str, method: str) -> torch.Tensor:
    """The weight of a projection with its adapters, float32, stored as without them.

    Raises:
        GuidedError: for a quantized one, and for experts with an adapter.
    """
    weight = float_weight(scene.base, name, method)
    if scene.anatomy.family.of_experts(scene.anatomy.relative(name)):
        parent = name.rpartition(".")[0]
        refuse_adapter(parent, scene.base.get_submodule(parent))
        return weight
    layer: Any = scene.base.get_submodule(name)
    if layer is bare(layer):
        return weight
    outputs, inputs = scene.anatomy.outputs_inputs(scene.anatomy.relative(name))
    rows = torch.eye(outputs, dtype=stored_weight(scene.base, name).dtype, device=weight.device)
    # What is linear is known by its Jacobian, whatever kind of adapter it is; biases have no part in it.
    found = pull_back(layer.forward, rows.new_zeros(outputs, inputs), rows).float()
    return found.T if scene.anatomy.rows_axis else found


def out_columns(scene: Scene, name: str, method: str) -> torch.Tensor:
    """The columns of an out- or down-projection ``[width, inputs]``, those of experts one expert after the other."""
    weight = adapted_weight(scene, name, method)
    weight = weight.mT if scene.anatomy.rows_axis_of(name) else weight
    return weight if weight.ndim == 2 else weight.transpose(0, 1).flatten(1)
