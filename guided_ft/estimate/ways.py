"""The ways of training that are compared with each other at the same budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from ..anatomy import Anatomy
from ..plan.modes import MODES, Mode, Work
from ..plan.modes.freeze import whole_layers
from ..plan.modes.lora import LoraMode, factors
from ..plan.modes.typical import Example
from ..plan.plan import Plan

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Way:
    """One way of training.

    Args:
        key: short name, the same for every model.
        name: for people.
        attach: makes a model train this way; returns the model to train. Raises GuidedError if the budget buys nothing.
        work: where its trained numbers lie.
        in_place: whether it trains the base's own weights, which quantized ones do not allow.
    """

    key: str
    name: str
    attach: Callable[[nn.Module], nn.Module]
    work: Callable[[], Work]
    in_place: bool = False


def ways(anatomy: Anatomy, budget: int, rank: int = 8) -> list[Way]:
    """Full fine-tuning, LoRA, and every mode for a budget in parameters."""
    found = [
        Way("full", "full fine-tuning", _full, lambda: _all_of(anatomy), in_place=True),
        Way(
            "lora",
            f"LoRA r{rank}, all linear layers",
            lambda model: _lora(model, anatomy, rank),
            lambda: _lora_work(anatomy, rank),
        ),
    ]
    # LoRA beside LoRA.
    for mode in sorted(MODES.values(), key=lambda mode: mode is not LoraMode):
        for example in mode().examples(anatomy, budget):
            found.append(_planned(mode, example))
    return found


def _planned(mode: type[Mode[Any]], example: Example) -> Way:
    @cache
    def plan() -> Plan:
        return Plan(example.choose(), mode.name)

    return Way(
        example.key,
        example.name,
        lambda model: plan().attach(model),
        lambda: plan().way.work(plan().selection),
        mode.trains_base,
    )


def _full(model: nn.Module) -> nn.Module:
    return model.requires_grad_(True)


def _all_of(anatomy: Anatomy) -> Work:
    return replace(whole_layers(anatomy, range(anatomy.num_layers)), embedding=True, head=True)


def _linear(anatomy: Anatomy) -> list[str]:
    # Experts are no linear layers.
    return [name for name in anatomy.shapes if not anatomy.family.of_experts(name)]


def _lora(model: nn.Module, anatomy: Anatomy, rank: int) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        target_modules=[anatomy.module(i, name) for i in range(anatomy.num_layers) for name in _linear(anatomy)],
        fan_in_fan_out=anatomy.family.transposed,
    )
    return get_peft_model(model, config)


def _lora_work(anatomy: Anatomy, rank: int) -> Work:
    added = {(i, name): factors(anatomy, name, rank) for i in range(anatomy.num_layers) for name in _linear(anatomy)}
    return Work(added=added)
