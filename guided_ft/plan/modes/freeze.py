"""``freeze``: train the base's own weights that hold the chosen components, and freeze all others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...anatomy import Anatomy
from ...errors import GuidedError
from ...selection.selection import Selection
from .mode import RATE, Mode
from .typical import Example, topmost
from .work import ROUTER, Work, places

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class FreezeMode(Mode[Selection]):
    """Whole layers train all of their parameters; other components the weights that hold them (of all experts)."""

    name: ClassVar[str] = "freeze"
    title: ClassVar[str] = "freeze"
    help: ClassVar[str] = "the whole weights that hold them, and all of a chosen layer"
    trains_base: ClassVar[bool] = True
    # Whole weights train, so the budget must buy whole attentions and MLPs.
    whole: ClassVar[bool] = True
    beside: ClassVar[bool] = False

    def config(self, selection: Selection) -> None:
        return None

    def sizes(self, selection: Selection) -> dict[str, int]:
        anatomy = selection.anatomy
        sizes: dict[str, int] = {}
        for layer in _layers(selection):
            sizes |= {anatomy.module(layer, name): size for name, size in anatomy.parameters_of(layer).items()}
        for module, (_, name) in _weights(selection).items():
            parameter = module if anatomy.family.of_experts(name) else f"{module}.weight"
            sizes.setdefault(parameter, math.prod(anatomy.shapes[name]))
        return sizes

    def work(self, selection: Selection) -> Work:
        whole = whole_layers(selection.anatomy, _layers(selection))
        shapes = selection.anatomy.shapes
        held = {place: math.prod(shapes[place[1]]) for place in _weights(selection).values()}
        return Work({**held, **whole.in_place}, other=whole.other)

    def rate(self, share: float) -> float:
        """On SmolLM2 what suits whole weights, 9 % of them and all of them, lies near this line."""
        return RATE * min(1.0, 0.01 / share)

    def examples(self, anatomy: Anatomy, budget: int) -> list[Example]:
        return [Example("freeze", "freeze, from the top", lambda: topmost(anatomy, budget))]

    def attach(self, selection: Selection, model: nn.Module) -> nn.Module:
        self.attach_in_place(selection, model)
        return model

    def attach_in_place(self, selection: Selection, model: nn.Module) -> None:
        from ...slice.storage import is_quantized

        wanted = self.sizes(selection)
        found = {name: p for name, p in model.named_parameters() if name in wanted}
        missing = sorted(set(wanted) - set(found))
        if missing:
            raise GuidedError(f"freeze: this model has no parameter {missing[0]!r} ({len(missing)} missing in all)")
        for name, parameter in found.items():
            if is_quantized(parameter):
                raise GuidedError(f"freeze: {name} is quantized and cannot be trained (use mode='slice' or 'lora')")
            if parameter.is_meta and hasattr(model.get_submodule(name.rpartition(".")[0]), "_hf_hook"):
                raise GuidedError(f"freeze: {name} is not in memory (load the layers that train onto a device)")
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in found.values():
            parameter.requires_grad_(True)


def whole_layers(anatomy: Anatomy, layers: Iterable[int]) -> Work:
    """All parameters of some layers, in place."""
    numbers = {name: math.prod(shape) for name, shape in anatomy.shapes.items()}
    if anatomy.num_experts:
        numbers[ROUTER] = anatomy.num_experts * anatomy.hidden_size
    chosen = sorted(set(layers))
    inside = {(i, name): n for i in chosen for name, n in numbers.items() if name == ROUTER or anatomy.has(name, i)}
    return Work(inside, other=frozenset(chosen))


def _layers(selection: Selection) -> set[int]:
    return {c.layer for c in selection if c.kind == "layer"}


def _weights(selection: Selection) -> dict[str, tuple[int, str]]:
    """The projections that hold chosen components, with their layer and their name in it."""
    place = places(selection.anatomy, (c.layer for c in selection))
    return {module: place[module] for module in sorted({part.module for part in selection.slices()})}
