"""The ways of training that are compared: one row each. A new one is a function that makes its plan, and a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...anatomy import Anatomy
    from ...plan.plan import Plan
    from ..stages import Run
    from ..whole import Whole


@dataclass(frozen=True)
class Arm:
    """One way of training the recipe's model on its data.

    Args:
        label: for people: it begins with the name, and ``{mode}`` is the recipe's.
        colour: of its line in the picture.
        plan: what trains, from a run whose map and plan are made, and a seed.
        trains_base: whether the base's own weights train, which quantized ones do not allow.
        needs_map: whether it takes a localization first, whose time is then its own.
        mode: the mode that its map and plan are made for; None: the recipe's.
        control: of which other arm it is the random choice.
        extra: whether it is trained only if it is asked for.
    """

    label: str
    colour: str
    plan: Callable[[Run, int], Plan | Whole]
    trains_base: bool = False
    needs_map: bool = False
    mode: str | None = None
    control: str | None = None
    extra: bool = False


def _full(run: Run, seed: int) -> Whole:
    from ..whole import Whole

    return Whole(_own(run, seed).selection.anatomy)


def _lora(run: Run, seed: int) -> Plan:
    """LoRA (arXiv 2106.09685) of one rank on all linear layers of the blocks, alpha 2 r: the rank that costs what the
    recipe's own choice does, or 1 where that buys none."""
    from ...plan.plan import Plan
    from ...selection.how import How
    from ...selection.selection import Selection

    own = _own(run, seed)
    anatomy = own.selection.anatomy
    layers = Selection(anatomy, tuple(anatomy.components("layer")), How(strategy="all layers"))
    return Plan(layers, "lora", max(1, own.num_parameters // _rank_one(anatomy)))


def _rank_one(anatomy: Anatomy) -> int:
    """Parameters of a LoRA of rank 1 on all linear layers."""
    return anatomy.num_layers * sum(sum(shape[-2:]) for shape in anatomy.shapes.values())


def _own(run: Run, seed: int) -> Plan:
    """What the recipe chooses. The map is made once, so every seed trains the same parts."""
    from ...plan.plan import Plan

    return Plan.load(run.folder / "plan.json")


def _random(run: Run, seed: int) -> Plan:
    """Parts drawn anew for each seed, of the recipe's budget, kinds and mode."""
    from ..stages import planned

    # As the control of a run: another seed than the map's, for recipes that draw at random themselves.
    return planned(run, "random", seed + 1)


ARMS: dict[str, Arm] = {
    "full": Arm("full fine-tuning", "#1f2933", _full, trains_base=True),
    "lora": Arm("LoRA, all linear layers", "#c2571a", _lora),
    "located": Arm("located ({mode})", "#1b6ca8", _own, needs_map=True),
    "random": Arm("random ({mode})", "#8d98a3", _random, control="located"),
    "subspace": Arm("subspace (located directions)", "#2f855a", _own, needs_map=True, mode="subspace", extra=True),
    "lora-fa": Arm(
        "lora-fa (random directions)",
        "#8fb8a0",
        _random,
        needs_map=True,
        mode="subspace",
        control="subspace",
        extra=True,
    ),
}
"""By the name that a person types. ``located`` is the recipe's own choice, in its mode; ``lora-fa`` is LoRA with a
random ``A`` that stays fixed (arXiv 2308.03303), of the ranks that the map gives."""
