"""What the directions are computed from: the task's mean gradients, and second moments of what retained text gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from ...anatomy import Anatomy
from ...system import processes
from ...task.task import Task
from ..watch.passes import BACKWARD, FORWARD, Pass
from ..watch.play import play
from ..watch.scene import Scene

Sums = dict[str, torch.Tensor]


def shared_inputs(anatomy: Anatomy) -> dict[str, str]:
    """For each linear layer, by relative name, the first of those that read the same input."""
    f = anatomy.family
    # Of latent vectors, those of queries and those of keys and values are two.
    attention = [f.query.module] if f.latent else [rows.module for rows in f.attention]
    mlp = [rows.module for rows in f.up]
    first = {name: attention[0] for name in attention} | {name: mlp[0] for name in mlp}
    return {name: first.get(name, name) for name in anatomy.shapes}


def mean_gradients(model: nn.Module, anatomy: Anatomy, task: Task, names: Iterable[str]) -> Sums:
    """``G [out, in]`` of each layer: the gradient of the mean loss, as the sum of ``d x^T`` over tokens, in float32.

    No weight takes part, so that quantized layers have one, too.
    """
    wanted, sums = list(names), Sums()

    def watch(scene: Scene) -> None:
        def seen(name: str, x: torch.Tensor, d: torch.Tensor) -> None:
            _add_product(sums, name, d[scene.mask], x[scene.mask])

        scene.at_projection_gradients(seen, wanted)

    _pass(model, anatomy, task, BACKWARD, watch, sums)
    return {name: total / len(task) for name, total in sums.items()}


def second_moments(model: nn.Module, anatomy: Anatomy, retain: Task, names: Iterable[str]) -> Sums:
    """Sum over tokens of ``x x^T [in, in]`` at the input of each layer, in float32."""
    wanted, sums = list(names), Sums()

    def watch(scene: Scene) -> None:
        def seen(name: str, x: torch.Tensor) -> None:
            x = x[scene.mask]
            _add_product(sums, name, x, x)

        scene.at_projections(seen, wanted)

    _pass(model, anatomy, retain, FORWARD, watch, sums)
    return sums


def _add_product(sums: Sums, name: str, a: torch.Tensor, b: torch.Tensor) -> None:
    a, b = a.float(), b.float()
    if name in sums:
        sums[name].addmm_(a.T, b)
    else:
        sums[name] = a.T @ b


def _pass(
    model: nn.Module, anatomy: Anatomy, task: Task, how: Pass, watch: Callable[[Scene], None], sums: Sums
) -> None:
    if play(model, anatomy, task, how, watch):
        processes.reduce(sums)
