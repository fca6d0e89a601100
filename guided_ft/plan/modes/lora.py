"""``lora``: a stock LoRA on the modules that hold the chosen components."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...anatomy import Anatomy
from ...errors import GuidedError
from ...selection.selection import Selection
from .mode import ADAPTER, RATE, Mode
from .typical import Example, spread
from .work import Work, places

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True)
class LoraMode(Mode[Selection]):
    """More rank where the scores are higher.

    Args:
        rank: of the modules, on average; None spends at most as many parameters as the selection has.
    """

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    help: ClassVar[str] = "a stock LoRA on the modules that hold them"
    rank: int | None = None

    def check(self, selection: Selection) -> None:
        inside = [c for c in selection if c.kind != "head"] if selection.anatomy.num_experts else []
        if inside:
            raise GuidedError(
                f"lora: {inside[0]} is made of experts, which are no linear layers (use mode 'slice' or 'freeze', or "
                "choose heads only)"
            )

    def config(self, selection: Selection) -> LoraConfig:
        from peft import LoraConfig

        ranks = self.ranks(selection)
        largest = max(ranks.values())
        return LoraConfig(
            task_type="CAUSAL_LM",
            target_modules=sorted(ranks),
            # Servers reserve room for ``r`` and look at no pattern.
            r=largest,
            # alpha = 2 r everywhere, so that every module has the same scale whatever its rank.
            lora_alpha=2 * largest,
            rank_pattern={module: r for module, r in ranks.items() if r != largest},
            alpha_pattern={module: 2 * r for module, r in ranks.items() if r != largest},
            fan_in_fan_out=selection.anatomy.family.transposed,
        )

    def sizes(self, selection: Selection) -> dict[str, int]:
        anatomy = selection.anatomy
        return {
            f"base_model.model.{module}.lora_{side}.{ADAPTER}.weight": size
            for module, rank in self.ranks(selection).items()
            for side, size in zip("AB", factors(anatomy, anatomy.relative(module), rank), strict=True)
        }

    def work(self, selection: Selection) -> Work:
        anatomy = selection.anatomy
        place = places(anatomy, (c.layer for c in selection))
        ranks = {place[module]: rank for module, rank in self.ranks(selection).items()}
        return Work(added={at: factors(anatomy, at[1], rank) for at, rank in ranks.items()})

    def ranks(self, selection: Selection) -> dict[str, int]:
        """Share ranks out among the modules that hold chosen components, by score (D'Hondt's method of seats).

        A module's weight is the sum of the scores of its components, each relative to the mean of its kind; one rank at
        a time goes to the module with the largest weight per rank, so a larger budget only adds.

        Returns:
            Rank by module name; modules that got none are left out.

        Raises:
            GuidedError: for experts, which are no linear layers, or if not even one rank can be bought.
        """
        self.check(selection)
        anatomy, rank = selection.anatomy, self.rank
        weights = _module_weights(selection)
        if not weights:
            raise GuidedError(f"lora: no linear layer of {selection.text} is known here (use mode 'freeze')")
        cost = {module: sum(anatomy.shapes[anatomy.relative(module)]) for module in weights}
        limit = {module: min(anatomy.shapes[anatomy.relative(module)]) for module in weights}
        left = rank * len(weights) if rank else selection.num_parameters
        ranks: dict[str, int] = defaultdict(int)
        queue = [(-weight, module) for module, weight in weights.items()]
        heapq.heapify(queue)
        while queue:
            _, module = heapq.heappop(queue)
            price = 1 if rank else cost[module]
            if price > left:
                break
            left -= price
            ranks[module] += 1
            if ranks[module] < limit[module]:
                heapq.heappush(queue, (-weights[module] / (ranks[module] + 1), module))
        if not ranks:
            raise GuidedError(
                f"lora: {selection.num_parameters:,} parameters buy no rank (the first module takes "
                f"{min(cost.values()):,}; raise the budget or give a rank)"
            )
        return dict(ranks)

    def rate(self, share: float) -> float:
        return RATE * min(1.0, math.sqrt(0.01 / share))

    def examples(self, anatomy: Anatomy, budget: int) -> list[Example]:
        layers = range(anatomy.num_layers)
        return [Example("lora_same", "LoRA, as many parameters", lambda: spread(anatomy, budget, layers))]


def factors(anatomy: Anatomy, name: str, rank: int) -> tuple[int, int]:
    """How many numbers A and B of a LoRA hold on a projection."""
    outputs, inputs = anatomy.outputs_inputs(name)
    return rank * inputs, rank * outputs


def _module_weights(selection: Selection) -> dict[str, float]:
    means: dict[str, float] = {}
    for kind, count in selection.counts().items():
        values = [selection.scores.get(c, 1.0) for c in selection if c.kind == kind]
        means[kind] = sum(values) / count if count else 1.0
    weights: dict[str, float] = defaultdict(float)
    trained = {part.module for part in selection.slices()}
    for component in selection:
        relative = selection.scores.get(component, 1.0) / (means[component.kind] or 1.0)
        for module in {part.module for part in selection.anatomy.slices(component)} & trained:
            weights[module] += max(relative, 0.0)
    return weights
