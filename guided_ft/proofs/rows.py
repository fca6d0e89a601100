"""Proof of the rows: back-propagating from one head or neuron touches exactly the rows that the map gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..anatomy import Component
from ..engine.labelled import wrapped_forward
from ..scorers.watch.tap import Tap
from .bench import Bench, Unproved
from .replica import tokens

if TYPE_CHECKING:
    from torch import nn

NEURONS = 6
"""Neurons that are tried in each layer (in each expert half as many)."""

SILENT = "it says nothing to any text"
"""As some neurons behind a ReLU do."""


def rows(bench: Bench) -> str:
    """All heads and some neurons of every layer."""
    a, count = bench.anatomy, 0
    lowest = a.layers_of("head")[0]
    if a.family.joint_norm and not _off(bench, a.component("head", lowest, 0), _inputs(bench, "head")[lowest]):
        raise Unproved("heads are said to be normed together, but their gradients do not mix")
    with _joint_norms_out(bench):
        kinds = ("head",) if a.num_experts else ("head", "neuron")
        for kind in kinds:
            for layer, entering in _inputs(bench, kind).items():
                some = [a.component("head", layer, i) for i in range(a.num_heads)]
                for component in some if kind == "head" else bench.some("neuron", layer, NEURONS):
                    wrong = _off(bench, component, entering)
                    if wrong == SILENT and kind == "neuron":
                        continue
                    if wrong:
                        raise Unproved(wrong)
                    count += 1
    if not a.num_experts and count <= len(a.components("head")) + len(a.layers_of("neuron")) * NEURONS // 2:
        raise Unproved("most neurons say nothing to any text, so nothing is proved")
    return f"{count + _experts(bench)} heads and neurons"


def _inputs(bench: Bench, kind: str) -> dict[int, torch.Tensor]:
    """What enters the out- or down-projection of each layer, with its graph to the weights."""
    a, seen = bench.anatomy, dict[int, torch.Tensor]()
    name = a.out_module if kind == "head" else a.down_module
    with Tap(bench.model) as tap:
        bench.model.requires_grad_(True)
        for layer in a.layers_of(kind):
            tap.at_input(name(layer), lambda x, layer=layer: seen.update({layer: x}))  # type: ignore[misc]
        bench.model(input_ids=tokens(16, 9), use_cache=False)
    return seen


def _off(bench: Bench, component: Component, entering: torch.Tensor) -> str:
    """What is wrong with the rows of a component, in words; nothing if they are right."""
    a, head = bench.anatomy, component.kind == "head"
    width, into = (a.head_dim, a.out_module) if head else (1, a.down_module)
    if entering.shape[-1] != width * a.size(component.kind):
        return f"{into(component.layer)} is given {entering.shape[-1]} numbers, not {width * a.size(component.kind)}"
    start = a.position(component) * width
    if not entering[..., start : start + width].any():
        return SILENT
    parts = [p for p in a.slices(component) if p.module != into(component.layer)]
    # The gradients of parameters that are frozen by now: their graph was made when they were not.
    gradients = torch.autograd.grad(
        entering[..., start : start + width].square().sum(),
        [bench.weight(p.module) for p in parts],
        retain_graph=True,
        allow_unused=True,
    )
    for part, gradient in zip(parts, gradients, strict=True):
        found = () if gradient is None else gradient.abs().amax(1 - part.axis).nonzero().flatten().tolist()
        if tuple(found) != part.index:
            extra, missing = len(set(found) - set(part.index)), len(set(part.index) - set(found))
            return (
                f"{component} in {a.relative(part.module)}: its gradient touches {extra} rows of others and misses "
                f"{missing} of its own"
            )
    return ""


@contextmanager
def _joint_norms_out(bench: Bench) -> Iterator[None]:
    """Without the norms over all heads together, rows are separate again."""
    a = bench.anatomy
    held = []
    if a.family.joint_norm:
        for layer in a.layers_of("head"):
            block = bench.base.get_submodule(a.out_module(layer).rpartition(".")[0])
            held += [m for m in block.modules() if getattr(getattr(m, "weight", None), "ndim", 0) == 1]
    for module in held:
        module.forward = lambda x: x
    try:
        yield
    finally:
        for module in held:
            del module.forward


def _experts(bench: Bench) -> int:
    """Changing the rows of an expert's neuron changes the output along its down column, and in no other direction."""
    a, count = bench.anatomy, 0
    for layer in a.layers_of("neuron") if a.num_experts else ():
        experts = bench.base.get_submodule(a.experts_module(layer))
        with torch.no_grad(), _call_of(bench, experts) as given:
            before = experts.forward(*given)
            for expert in range(a.num_experts):
                size = a.neurons_per_expert
                for index in range(1, size, max(1, 2 * size // NEURONS)):
                    neuron = Component("neuron", layer, index, expert)
                    wrong = _off_along(bench, neuron, before, partial(experts.forward, *given))
                    if wrong:
                        raise Unproved(wrong)
                    count += 1
    return count


@contextmanager
def _call_of(bench: Bench, experts: nn.Module) -> Iterator[tuple]:
    calls: list[tuple] = []

    def note(forward: Callable[..., object], *args: object, **kwargs: object) -> object:
        calls.append((*args, *kwargs.values()))
        return forward(*args, **kwargs)

    with wrapped_forward(experts, note):
        bench.model(input_ids=tokens(8, 9), use_cache=False)
    yield calls[0]


def _off_along(bench: Bench, neuron: Component, before: torch.Tensor, run: Callable[[], torch.Tensor]) -> str:
    a = bench.anatomy
    parts = a.slices(neuron)
    [down] = [p for p in parts if p.module == a.down_module(neuron.layer)]
    column = bench.weight(down.module).data[neuron.expert].select(down.axis, down.index[0])
    for part in parts:
        if part is down:
            continue
        for row in part.index:
            weight = bench.weight(part.module).data[neuron.expert].select(part.axis, row)
            kept = weight.clone()
            weight += 0.5
            change = run() - before
            weight.copy_(kept)
            beside = change - (change @ column)[..., None] * column / column.square().sum()
            if change.abs().max() < 1e-6 or beside.abs().max() > 1e-4 * change.abs().max():
                return f"{neuron} in {a.relative(part.module)}: row {row} does not feed its down column alone"
    return ""
