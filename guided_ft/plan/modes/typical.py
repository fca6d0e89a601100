"""Selections that are typical of a budget, wherever the model's own parts lie. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...anatomy import Anatomy, Component
from ...errors import GuidedError
from ...selection.selection import Selection
from ...selection.subspace import Subspace


@dataclass(frozen=True)
class Example:
    """A typical selection of a mode.

    Args:
        key: short name of the way of training, the same for every model.
        name: for people.
        choose: makes the selection; raises GuidedError if the budget buys nothing.
    """

    key: str
    name: str
    choose: Callable[[], Any]


def spread(anatomy: Anatomy, budget: int, layers: Sequence[int]) -> Selection:
    """As many neurons as a budget buys, spread evenly over some layers and evenly within each.

    Where they lie within a layer changes neither memory nor cost.
    """
    cost = anatomy.cost([anatomy.component("neuron", 0, 0)])
    count = min(budget // cost, len(layers) * anatomy.num_neurons)
    if not count:
        raise GuidedError(f"a budget of {budget:,} parameters buys no neuron (one takes {cost:,})")
    chosen = []
    for i, layer in enumerate(layers):
        # Differences of a rounded line: they add up to `count`.
        here = (i + 1) * count // len(layers) - i * count // len(layers)
        chosen += [anatomy.component("neuron", layer, j * anatomy.num_neurons // here) for j in range(here)]
    return Selection(anatomy, tuple(chosen))


def spread_directions(anatomy: Anatomy, budget: int, layers: Sequence[int]) -> Subspace:
    """As many directions as a budget buys, spread evenly over the linear layers.

    Which they are does not matter to the cost: one unit vector stands for all of a layer, and so takes no memory.
    """
    names = [name for name in anatomy.shapes if not anatomy.family.of_experts(name)]
    sizes = {name: anatomy.outputs_inputs(name) for name in names}
    there = ((layer, name) for layer in layers for name in names if anatomy.has(name, layer))
    left, ranks = budget, dict.fromkeys(there, 0)
    for rank in range(max(inputs for _, inputs in sizes.values())):
        for layer, name in ranks:
            outputs, inputs = sizes[name]
            if rank < inputs and left >= outputs:
                left -= outputs
                ranks[layer, name] += 1
    if not any(ranks.values()):
        least = min(outputs for outputs, _ in sizes.values())
        raise GuidedError(f"a budget of {budget:,} parameters buys no direction (one takes {least:,})")
    bases = {
        anatomy.module(layer, name): _repeated(rank, sizes[name][1]) for (layer, name), rank in ranks.items() if rank
    }
    return Subspace(anatomy, bases)


def _repeated(rank: int, inputs: int) -> np.ndarray:
    first = np.zeros(inputs, dtype=np.float32)
    first[0] = 1
    return np.lib.stride_tricks.as_strided(first, (rank, inputs), (0, first.itemsize))


def top_third(anatomy: Anatomy) -> Sequence[int]:
    """The layers of the top third, at least one."""
    return range(anatomy.num_layers)[-max(1, round(anatomy.num_layers / 3)) :]


def topmost(anatomy: Anatomy, budget: int) -> Selection:
    """Whole MLPs and attentions from the top down, as far as a budget goes."""
    kinds = {kind: anatomy.cost(_whole(anatomy, kind, 0)) for kind in ("neuron", "head")}
    chosen: list[Component] = []
    left = budget
    for layer in reversed(range(anatomy.num_layers)):
        for kind, cost in kinds.items():
            if cost <= left:
                chosen += _whole(anatomy, kind, layer)
                left -= cost
    if not chosen:
        least = min(kinds.values())
        raise GuidedError(f"a budget of {budget:,} parameters buys no whole attention or MLP (from {least:,})")
    return Selection(anatomy, tuple(chosen))


def _whole(anatomy: Anatomy, kind: str, layer: int) -> list[Component]:
    return [anatomy.component(kind, layer, i) for i in range(anatomy.size(kind))]
