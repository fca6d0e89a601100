"""Ablation: remove each component and see what the loss does. Exact, and slow: the oracle for the estimates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ..anatomy import Anatomy, Component
from ..errors import pick
from ..progress import track
from ..scoremap import ScoreMap
from ..task import Task
from .tap import Tap


def ablation(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task,
    *,
    kinds: tuple[str, ...] = ("layer", "head"),
    replace: str = "zero",
    signed: bool = False,
    progress: bool | None = None,
) -> ScoreMap:
    """Score components by the exact change of the loss when they are removed.

    ::

        effect(example) = loss with the component's activation replaced - loss
        score = mean over examples of |effect|        signed=True: mean of the effect (nats)

    A head's activation is its part of the out-projection's input, a neuron's is its part of the down-projection's;
    a layer's is what it adds to the residual stream.

    Args:
        replace: ``zero``, or ``mean``: the mean activation over the task's tokens (padding left out), which asks what
            the component says about this example rather than what it always says.

    Cost: one forward pass per component and batch (46,080 neurons of a 135M model take days: verify some instead).
    """
    pick({"zero": 0, "mean": 0}, replace, "replace")
    device = next(model.parameters()).device
    batches = list(task.batches(device))
    arrays = {kind: np.zeros((anatomy.num_layers, anatomy.size(kind))) for kind in kinds}
    components = [c for kind in kinds for c in anatomy.components(kind)]
    with Tap(model) as tap, torch.no_grad():
        means = _means(tap, anatomy, kinds, batches) if replace == "mean" else {}
        clean = [task.quantity(model, batch) for batch in batches]
        for c in track(components, len(components), "ablation", progress):
            handle = _remove(tap, anatomy, c, means)
            effect = torch.cat(
                [
                    task.loss(task.quantity(model, batch), before) - task.loss(before, before)
                    for batch, before in zip(batches, clean, strict=True)
                ]
            ).double()
            handle.remove()
            arrays[c.kind][c.layer, anatomy.position(c)] = float(effect.mean() if signed else effect.abs().mean())
    meta = {"passes": len(batches) * (len(components) + 1), "replace": replace}
    return ScoreMap.of_arrays(anatomy, arrays, meta)


def _place(anatomy: Anatomy, kind: str, layer: int) -> tuple[str, int]:
    """Where a head or neuron can be removed: the module whose input carries it, and its width there."""
    if kind == "head":
        return anatomy.out_module(layer), anatomy.head_dim
    return anatomy.down_module(layer), 1


def _remove(tap: Tap, anatomy: Anatomy, c: Component, means: dict[str, torch.Tensor]):
    if c.kind == "layer":
        name = anatomy.layer_module(c.layer)
        mean = means.get(name)
        return tap.at_layer(name, lambda before, after: before + mean.to(before) if mean is not None else before)
    name, width = _place(anatomy, c.kind, c.layer)
    first = anatomy.position(c) * width
    part = slice(first, first + width)

    def hook(a: torch.Tensor) -> torch.Tensor:
        a = a.clone()
        a[..., part] = means[name][part].to(a) if means else 0
        return a

    return tap.at_input(name, hook)


def _means(
    tap: Tap, anatomy: Anatomy, kinds: tuple[str, ...], batches: list[dict[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Mean activation over all real tokens, by module name: ``[width]``."""
    sums: dict[str, torch.Tensor] = {}
    mask = torch.zeros(0)

    def add(name: str, a: torch.Tensor) -> None:
        # OPT hands rows and tokens over as one dimension.
        total = (a.double().reshape(*mask.shape, -1) * mask[..., None]).sum((0, 1))
        sums[name] = sums[name] + total if name in sums else total

    def watch(name: str) -> Callable[[torch.Tensor], None]:
        return lambda a: add(name, a)

    def watch_layer(name: str) -> Callable[[torch.Tensor, torch.Tensor], None]:
        return lambda before, after: add(name, after - before)

    handles = []
    for layer in range(anatomy.num_layers):
        for kind in kinds:
            if kind == "layer":
                name = anatomy.layer_module(layer)
                handles.append(tap.at_layer(name, watch_layer(name)))
            else:
                name = _place(anatomy, kind, layer)[0]
                handles.append(tap.at_input(name, watch(name)))
    tokens = 0
    for batch in batches:
        mask = batch["attention_mask"].double()
        tokens += int(mask.sum())
        tap.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: total / tokens for name, total in sums.items()}
