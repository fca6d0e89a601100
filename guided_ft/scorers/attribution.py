"""Attribution: gradient x activation, the first-order estimate of removing a component."""

from __future__ import annotations

import torch
from torch import nn

from ..anatomy import KINDS, Anatomy
from ..progress import track
from ..scoremap import ScoreMap
from ..task import Task
from .tap import Tap


def attribution(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task,
    *,
    kinds: tuple[str, ...] = KINDS,
    signed: bool = False,
    progress: bool | None = None,
) -> ScoreMap:
    """Score every head, neuron and layer in one forward and backward pass per batch.

    With ``a`` the activation of a component (a head's part of the input of the out-projection, a neuron's of the
    down-projection, what a layer adds to the residual stream), ``g = d loss / d a`` and the sum over its dimensions
    and all tokens of an example::

        head, neuron, layer = mean over examples of |sum(a * g)|      (Michel et al. 2019, arXiv 1905.10650, eq. 4)
        signed=True:          mean over examples of -sum(a * g)       (attribution patching to zero, in nats)

    ``-sum(a * g)`` estimates the rise of the loss when the component is set to zero; ``ablation`` is the exact value.

    Cost: one pass, weights frozen, nothing kept but the sums. Data: labelled examples.
    """
    sums: dict[str, list[torch.Tensor]] = {kind: [torch.zeros(())] * anatomy.num_layers for kind in kinds}
    rows = 0

    def add(kind: str, layer: int, effect: torch.Tensor) -> None:
        """``effect [rows, components]``: the sum of ``a * g`` of each component in each row."""
        effect = task.per_example(effect)
        sums[kind][layer] = sums[kind][layer] + (-effect if signed else effect.abs()).sum(0).double().cpu()

    def product(a: torch.Tensor, g: torch.Tensor, size: int) -> torch.Tensor:
        """``[rows, tokens, size * width] -> [rows, size]`` (OPT hands rows and tokens over as one dimension)."""
        return (a.float() * g.float()).reshape(rows, -1, a.shape[-1]).sum(1).unflatten(-1, (size, -1)).sum(-1)

    with Tap(model, start_graph=True) as tap:

        def watch_input(name: str, kind: str, layer: int) -> None:
            def seen(a: torch.Tensor) -> None:
                value = a.detach()
                tap.at_gradient(a, lambda g: add(kind, layer, product(value, g, anatomy.size(kind))))

            tap.at_input(name, seen)

        def watch_layer(layer: int) -> None:
            def seen(before: torch.Tensor, after: torch.Tensor) -> None:
                change = (after - before).detach()
                tap.at_gradient(after, lambda g: add("layer", layer, product(change, g, 1)))

            tap.at_layer(anatomy.layer_module(layer), seen)

        for layer in range(anatomy.num_layers):
            if "head" in kinds:
                watch_input(anatomy.out_module(layer), "head", layer)
            if "neuron" in kinds:
                watch_input(anatomy.down_module(layer), "neuron", layer)
            if "layer" in kinds:
                watch_layer(layer)
        device = next(model.parameters()).device
        for batch in track(task.batches(device), task.num_batches(), "attribution", progress):
            rows = len(batch["input_ids"])
            task.loss(task.quantity(model, batch)).sum().backward()

    arrays = {kind: torch.stack(rows).numpy() / len(task) for kind, rows in sums.items()}
    return ScoreMap.of_arrays(anatomy, arrays, {"passes": task.num_batches()})
