"""Short forms for tests of mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel, get_peft_model
from torch import nn

from guided_ft.anatomy import Anatomy, Component, Slice, stored_weight
from guided_ft.plan.plan import Plan
from guided_ft.selection.selection import Selection
from guided_ft.slice import SliceConfig

# Neighbours and single neurons, in some experts of one layer and in all of the other.
NEURONS = "L0.E0.N3 L0.E2.N0 L0.E2.N1 L0.E2.N7 L1.E0.N5 L1.E1.N5 L1.E2.N2"
SELECTIONS = {
    "neurons": NEURONS,
    "heads": "L0.H1 L1.H2 L1.H3",
    "both": f"{NEURONS} L0.H0 L0.H1",
    "layer": "L1 L0.E1.N2",
}


def plan_of(model: nn.Module, text: str) -> Plan:
    return Plan(Selection.parse(text, Anatomy.of(model)))


def attach(model: nn.Module, text: str, *, changed: bool = False) -> PeftModel:
    """Add a slice adapter for a selection: as at birth, or (``changed``) with random deltas."""
    return get_peft_model(model, SliceConfig(slices=config_of(model, text), init_weights=not changed))


def config_of(model: nn.Module, text: str) -> dict[str, dict]:
    config = plan_of(model, text).peft_config()
    assert isinstance(config, SliceConfig)
    assert config.slices
    return config.slices


def cut(matrix: torch.Tensor, part: Slice) -> torch.Tensor:
    """What a Slice means, from a stored weight or its gradient."""
    matrix = matrix if part.expert is None else matrix[part.expert]
    return matrix.index_select(part.axis, torch.tensor(part.index))


def mask_of(model: nn.Module, text: str) -> dict[str, torch.Tensor]:
    """1 where a selection trains, 0 elsewhere, by the name of the stored weight."""
    anatomy = Anatomy.of(model)
    masks: dict[str, torch.Tensor] = {}
    for part in anatomy.trainable(Selection.parse(text, anatomy)):
        weight = stored_weight(model, part.module)
        name = part.module if part.expert is not None else f"{part.module}.weight"
        mask = masks.setdefault(name, torch.zeros_like(weight))
        (mask if part.expert is None else mask[part.expert]).index_fill_(part.axis, torch.tensor(part.index), 1)
    return masks


def part_of(anatomy: Anatomy, component: Component, name: str) -> Slice:
    """The one slice of a component in the projection of this name."""
    module = anatomy.module(component.layer, name)
    [part] = [p for p in anatomy.slices(component) if p.module == module]
    return part


@contextmanager
def neurons_seen(model: nn.Module, layer: int, see: Callable) -> Iterator[None]:
    """Let ``see(said [pairs, size], expert [pairs], weight [pairs])`` look at, or replace, what experts' neurons say.

    An independent window: transformers' own ``batched_mm`` calls the experts' gate function once, on all pairs of token
    and expert in the router's order, token by token.
    """
    model.set_experts_implementation("batched_mm")
    experts = model.get_submodule(Anatomy.of(model).experts_module(layer))
    gate, routed = experts._apply_gate, []

    def said(gate_up: torch.Tensor) -> torch.Tensor:
        found = gate(gate_up)
        changed = see(found, *routed.pop())
        return found if changed is None else changed

    keep = experts.register_forward_pre_hook(lambda m, args: routed.append((args[1].flatten(), args[2].flatten())))
    experts._apply_gate = said
    try:
        yield
    finally:
        keep.remove()
        del experts._apply_gate
