"""The ways of training that are compared with each other at the same budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..anatomy import Anatomy, Component
from ..errors import GuidedError
from ..plan.plan import Plan
from ..selection.selection import Selection

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Args:
        key: short name, the same for every model.
        name: for people.
        attach: makes a model train this way; returns the model to train. Raises GuidedError if the budget buys nothing.
        in_place: whether it trains the base's own weights, which quantized ones do not allow.
    """

    key: str
    name: str
    attach: Callable[[nn.Module], nn.Module]
    in_place: bool = False


def arms(anatomy: Anatomy, budget: int, rank: int = 8) -> list[Arm]:
    """Full fine-tuning, LoRA, slices and freezing for a budget in parameters.

    Slices are neurons, spread evenly over all layers or over the top third. Where they lie within a layer changes
    neither memory nor cost.
    """
    layers = range(anatomy.num_layers)
    top = layers[-max(1, round(anatomy.num_layers / 3)) :]
    everywhere, above = (lambda: spread(anatomy, budget, layers)), (lambda: spread(anatomy, budget, top))
    return [
        Arm("full", "full fine-tuning", _full, in_place=True),
        Arm("lora", f"LoRA r{rank}, all linear layers", lambda model: _lora(model, anatomy, rank)),
        Arm("lora_same", "LoRA, as many parameters", lambda model: Plan(everywhere(), "lora").attach(model)),
        Arm("slice", "slice, all layers", lambda model: Plan(everywhere()).attach(model)),
        Arm("slice_top", f"slice, top {len(top)} layers", lambda model: Plan(above()).attach(model)),
        Arm(
            "freeze",
            "freeze, from the top",
            lambda m: Plan(topmost(anatomy, budget), "freeze").attach(m),
            in_place=True,
        ),
    ]


def spread(anatomy: Anatomy, budget: int, layers: Sequence[int]) -> Selection:
    """As many neurons as a budget buys, spread evenly over some layers and evenly within each."""
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


def _full(model: nn.Module) -> nn.Module:
    return model.requires_grad_(True)


def _lora(model: nn.Module, anatomy: Anatomy, rank: int) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    # Experts are no linear layers.
    names = [name for name in anatomy.shapes if not anatomy.family.of_experts(name)]
    modules = [anatomy.module(layer, name) for layer in range(anatomy.num_layers) for name in names]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        target_modules=modules,
        fan_in_fan_out=anatomy.family.transposed,
    )
    return get_peft_model(model, config)
