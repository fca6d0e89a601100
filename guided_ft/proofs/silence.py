"""Proof of the columns and of exact ablation: silencing parts in the weights does what ablation computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..anatomy import Component, Slice, form_of
from ..engine.labelled import wrapped_forward
from ..scorers.methods.ablation import effects
from .bench import Bench, Unproved, alike

NEURONS = 3
VISIBLE, ROUNDED = 1e-5, 5e-6


def ablation(bench: Bench) -> str:
    """Layers, heads and some neurons: the library's effect on the loss against one whole pass with zeroed weights.

    The library shares the texts' common start, runs copies side by side and skips layers; the other does nothing of it.
    """
    a = bench.anatomy
    chosen = a.components("layer") + a.components("head")
    chosen += [neuron for i in a.layers_of("neuron") for neuron in bench.some("neuron", i, NEURONS)]
    halves, _ = effects(bench.model, a, bench.task, chosen, signed=True, progress=False)
    before, expected = bench.loss(), []
    for component in chosen:
        with _without(bench, component):
            expected.append(bench.loss() - before)
    found, truth = torch.tensor(halves.sum(0)), torch.tensor(expected, dtype=torch.double)
    for component, effect in zip(chosen, truth, strict=True):
        if component.kind != "neuron" and abs(effect) < VISIBLE:
            raise Unproved(f"{component} makes no difference, so nothing is proved")
    off = (found - truth).abs()
    worst = int(off.argmax())
    # The loss itself is rounded.
    if not float(off[worst]) <= 1e-4 * float(truth.abs().max()) + ROUNDED:
        raise Unproved(f"{chosen[worst]}: effect {found[worst]:.5f}, with zeroed weights {truth[worst]:.5f}")
    groups = _groups(bench)
    return f"{len(chosen)} components and {groups} groups, of up to {truth.abs().max():.2g} nats"


@contextmanager
def _without(bench: Bench, component: Component) -> Iterator[None]:
    a, layer = bench.anatomy, component.layer
    if component.kind == "layer":
        module = bench.base.get_submodule(a.layer_module(layer))
        with wrapped_forward(module, _passed_on):
            yield
        return
    into = a.out_module(layer) if component.kind == "head" else a.down_module(layer)
    with bench.zeroed(p for p in a.slices(component) if p.module == into):
        yield


def _passed_on(forward: Callable[..., object], *args: torch.Tensor, **kwargs: torch.Tensor) -> object:
    hidden = args[0] if args else kwargs["hidden_states"]
    hidden = hidden.clone()
    out = forward(*args, **kwargs)
    return form_of(out)(hidden)


def _groups(bench: Bench) -> int:
    """Zeroing a group's value rows silences all of its heads, and no other."""
    a = bench.anatomy
    if a.family.latent:
        return 0
    value, axis = a.family.value, a.rows_axis
    for layer in a.layers_of("head"):
        for group in range(a.num_groups):
            own = range(group * a.heads_per_group, (group + 1) * a.heads_per_group)
            index = tuple(a.head_rows(value)[group].tolist())
            heads = [part for i in own for part in a.slices(Component("head", layer, i))]
            with bench.zeroed([Slice(a.module(layer, value.module), axis, index)], biases=True):
                by_values = bench.logits()
            with bench.zeroed(p for p in heads if p.module == a.out_module(layer)):
                by_columns = bench.logits()
            alike(by_values, by_columns, f"layer {layer}, group {group}: what zeroed values leave")
    return len(a.layers_of("head")) * a.num_groups
