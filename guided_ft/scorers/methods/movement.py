"""Look-ahead: train everything for a few cheap steps, see what moved, and take it back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ...anatomy import KINDS, Anatomy, base_model, stored_weight
from ...errors import GuidedError, pick
from ...selection.scoremap import ScoreMap
from ...system.progress import track
from ...task.task import Task
from ..watch.fold import fold, squares
from ..watch.scene import checked, float_weight
from ..watch.tap import Tap

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {
    "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr),
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr),
}


def movement(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task,
    *,
    kinds: tuple[str, ...] = KINDS,
    steps: int = 4,
    lr: float = 1e-4,
    optimizer: str = "sgd",
    relative: bool = False,
    progress: bool | None = None,
) -> ScoreMap:
    """Score components by how far a short full fine-tuning moves the weights they own.

    ::

        score = sqrt(sum over the component's weights of (w after the steps - w before)^2)
        relative=True: divided by sqrt(sum of w^2)

    (LT-SFT: Ansell et al. 2022, arXiv 2110.07560, trains to the end; Xu et al. 2024, arXiv 2403.11621, rank neurons
    by movement.) Afterwards every weight is put back to the same bits, whatever happened on the way.

    Args:
        steps: batches to train on, from the first; the task is repeated if it has fewer.
        lr: learning rate of the steps.
        optimizer: ``sgd``, or ``adam``, whose first steps move all weights alike, so that it needs more of them.

    The steps are taken in float32, whatever the model's dtype: one of them is often less than half precision can tell.

    Cost: ``steps`` training steps, and of pairs a forward pass for the reference; memory for a copy of the projections
    (in half precision also for their weights and gradients in float32; and Adam's state). Data: labelled examples.
    Layers, heads, neurons. Needs weights that can have gradients: not quantized ones.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise GuidedError(f"steps: expected a number from 1 up, got {steps!r}")
    make = pick(OPTIMIZERS, optimizer, "optimizer")
    base, device = base_model(model), next(model.parameters()).device
    names = [anatomy.module(layer, name) for layer in range(anatomy.num_layers) for name in anatomy.names_in(layer)]
    weights = {name: checked(stored_weight(base, name), name, "movement") for name in names}
    kept: dict[str, torch.Tensor] = {}
    task, passes = with_reference(model, task, steps)
    with Tap(model):
        try:
            kept = {name: weight.detach().clone() for name, weight in weights.items()}
            for weight in weights.values():
                weight.requires_grad_(True)
            # Of a float32 weight it is the weight itself.
            exact = {name: nn.Parameter(weight.detach().float()) for name, weight in weights.items()}
            stepper = make(exact.values(), lr)
            batches = itertools.islice(_endless(task, device), steps)
            for batch in track(batches, steps, "movement", progress):
                task.loss(task.quantity(model, batch)).mean().backward()
                for name, weight in weights.items():
                    exact[name].grad = None if weight.grad is None else weight.grad.float()
                    weight.grad = None
                stepper.step()
                with torch.no_grad():
                    for name, weight in weights.items():
                        weight.copy_(exact[name])
            axis = anatomy.rows_axis_of
            moved = fold(anatomy, lambda n: squares(exact[n].detach() - kept[n].float(), axis(n)), kinds)
        finally:
            with torch.no_grad():
                for name, before in kept.items():
                    weights[name].copy_(before)
    if relative:
        size = fold(anatomy, lambda n: squares(float_weight(base, n, "movement"), axis(n)), kinds)
        moved = {kind: array / np.maximum(size[kind], np.finfo(float).tiny) for kind, array in moved.items()}
    return ScoreMap.of_arrays(
        anatomy, {kind: np.sqrt(array) for kind, array in moved.items()}, {"passes": steps + passes}
    )


def with_reference(model: nn.Module, task: Task, steps: int) -> tuple[Task, int]:
    """Hold the margins of the model as it is for the reference of ``steps`` batches of pairs that have none.

    Without them the model is its own reference at every step, and never gets away from it. Also returns the passes.
    """
    if not task.is_preference or task.metric != "loss" or task.reference is not None:
        return task, 0
    task = task.take(steps * task.batch_size)
    device = next(model.parameters()).device
    with Tap(model), torch.no_grad():
        margins = [float(m) for batch in task.batches(device) for m in task.quantity(model, batch)]
    return replace(task, reference=tuple(margins)), task.num_batches()


def _endless(task: Task, device: torch.device) -> Iterable[dict[str, torch.Tensor]]:
    while True:
        yield from task.batches(device)
