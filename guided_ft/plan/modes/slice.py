"""``slice``: train the rows and columns of the chosen components, and nothing else of their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...anatomy import Anatomy, Slice
from ...errors import GuidedError
from ...selection.selection import Selection
from .mode import ADAPTER, RATE, Mode
from .typical import Example, spread, top_third
from .work import Work, places

if TYPE_CHECKING:
    from ...slice import SliceConfig


@dataclass(frozen=True)
class SliceMode(Mode[Selection]):
    """Rows and columns as compact matrices beside the base's, which stays as it is.

    Args:
        rank: train them as products of this rank, where that takes fewer parameters; None: in full.
    """

    name: ClassVar[str] = "slice"
    title: ClassVar[str] = "slice"
    help: ClassVar[str] = "just their rows and columns"
    rank: int | None = None

    def check(self, selection: Selection) -> None:
        if self.rank and _expert_neurons(selection):
            raise GuidedError("rank: expert neurons are trained in full only (leave rank out, or choose heads)")

    def config(self, selection: Selection) -> SliceConfig:
        from ...slice import SliceConfig

        slices: dict[str, dict] = {
            module: {"axis": p.axis, "index": list(p.index)} for module, p in _slices(selection).items()
        }
        slices |= {module: {"neurons": neurons} for module, neurons in _expert_neurons(selection).items()}
        return SliceConfig(slices=slices, rank=self.rank, task_type="CAUSAL_LM", chosen=self._in_words(selection))

    def _in_words(self, selection: Selection) -> str:
        """What is trained and how it was chosen, for the model card."""
        counts = ", ".join(f"{n:,} {kind}{'s' * (n > 1)}" for kind, n in selection.counts().items() if n)
        count, total = sum(self.sizes(selection).values()), selection.anatomy.num_parameters
        words = f"{counts}: {count:,} of {total:,} parameters ({count / total:.3%})"
        how = selection.how
        told = {"method": how.method, "strategy": how.strategy, "budget": how.budget}
        chosen = ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)
        return f"{words}; chosen by {chosen}" if chosen else words

    def sizes(self, selection: Selection) -> dict[str, int]:
        return {
            f"base_model.model.{module}.slice_delta.{ADAPTER}.{name}": size
            for module, tensors in self._tensors(selection).items()
            for name, size in tensors.items()
        }

    def work(self, selection: Selection) -> Work:
        anatomy = selection.anatomy
        place = places(anatomy, (c.layer for c in selection))
        # Neurons change the experts' output only: what lies between their matrices has no other gradient.
        experts = {
            anatomy.experts_module(layer): (layer, anatomy.family.down) for layer in {c.layer for c in selection}
        }
        tensors = self._tensors(selection)
        added = {(experts | place)[module]: tuple(sizes.values()) for module, sizes in tensors.items()}
        return Work(added=added, twice=frozenset(at for module, at in experts.items() if module in tensors))

    def _tensors(self, selection: Selection) -> dict[str, dict[str, int]]:
        """The trained tensors of each module, and their numbers: a full matrix, or two factors where these hold
        fewer."""
        anatomy = selection.anatomy
        found: dict[str, dict[str, int]] = {}
        for module, part in _slices(selection).items():
            cost, chosen = anatomy.slice_cost(part), len(part.index)
            other = cost // chosen
            a, b = (other, chosen) if part.axis == anatomy.rows_axis else (chosen, other)
            low = self.rank and self.rank * (a + b) < cost
            found[module] = {"A": self.rank * a, "B": self.rank * b} if self.rank and low else {"weight": cost}
        for module, experts in _expert_neurons(selection).items():
            column = sum(map(len, experts.values())) * anatomy.hidden_size
            found[module] = {"up": len(anatomy.family.up) * column, "down": column}
        return found

    def rate(self, share: float) -> float:
        """From 0.05 to 3 % of the parameters the best rate hardly depends on how many train."""
        rate = RATE * max(1.0, 0.0005 / share) * min(1.0, math.sqrt(0.03 / share))
        # Products begin with one factor at zero, and so more slowly.
        return 3 * rate if self.rank else rate

    def examples(self, anatomy: Anatomy, budget: int) -> list[Example]:
        top = top_third(anatomy)
        above = Example("slice_top", f"slice, top {len(top)} layers", lambda: spread(anatomy, budget, top))
        return [*super().examples(anatomy, budget), above]


def _slices(selection: Selection) -> dict[str, Slice]:
    found: dict[str, Slice] = {}
    for part in selection.slices():
        # A layer contributes all rows of each projection; chosen columns of the same weight are then among them.
        if part.expert is None and (part.module not in found or part.axis == selection.anatomy.rows_axis):
            found[part.module] = part
    return found


def _expert_neurons(selection: Selection) -> dict[str, dict[int, list[int]]]:
    """The chosen neurons by module and expert. A layer trains all of them, which are all rows of the experts."""
    anatomy = selection.anatomy
    chosen: dict[str, dict[int, set[int]]] = {}
    for component in selection:
        if component.kind == "head" or not anatomy.num_experts or not anatomy.has_any("neuron", component.layer):
            continue
        experts = chosen.setdefault(anatomy.experts_module(component.layer), {})
        if component.expert is not None:
            experts.setdefault(component.expert, set()).add(component.index)
        else:
            experts |= {e: set(range(anatomy.neurons_per_expert)) for e in range(anatomy.num_experts)}
    return {module: {e: sorted(index) for e, index in experts.items()} for module, experts in chosen.items()}
