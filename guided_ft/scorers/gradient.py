"""Gradient: how strongly the loss pulls at a component's weights."""

from __future__ import annotations

import torch
from torch import nn

from ..anatomy import KINDS, Anatomy, base_model, stored_weight
from ..errors import GuidedError
from ..progress import track
from ..scoremap import ScoreMap
from ..task import Task
from .fold import Squares, fold, squares
from .tap import Tap


def gradient(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task,
    *,
    kinds: tuple[str, ...] = KINDS,
    progress: bool | None = None,
) -> ScoreMap:
    """Score components by the squared gradients of the weights they own.

    ::

        score = mean over batches of the sum over the component's weights w of (d loss / d w)^2

    where the loss of a batch is the mean over its examples (an empirical Fisher of batches: with ``batch_size=1`` it
    is the usual diagonal one, see arXiv 1905.12558). Larger batches measure what their examples agree on.

    Cost: one forward and one full backward pass per batch; one weight's gradient is held at a time. Data: labelled
    examples. Needs weights that can have gradients: quantized models are refused.
    """
    base = base_model(model)
    totals: dict[str, Squares] = {}

    def watch(tap: Tap, name: str) -> None:
        weight = stored_weight(base, name)
        if not weight.is_floating_point():
            raise GuidedError(
                f"gradient: {name} is quantized (use method='attribution', or load the model unquantized)"
            )

        def seen(grad: torch.Tensor) -> None:
            rows, columns = squares(grad, anatomy.rows_axis_of(name))
            before = totals.get(name)
            totals[name] = (rows, columns) if before is None else (before[0] + rows, before[1] + columns)

        tap.at_weight_gradient(weight, seen)

    with Tap(model) as tap:
        for layer in range(anatomy.num_layers):
            for name in anatomy.shapes:
                watch(tap, anatomy.module(layer, name))
        device = next(model.parameters()).device
        for batch in track(task.batches(device), task.num_batches(), "gradient", progress):
            task.loss(task.quantity(model, batch)).mean().backward()

    batches = task.num_batches()
    return fold(anatomy, lambda name: (totals[name][0] / batches, totals[name][1] / batches), kinds, batches)
