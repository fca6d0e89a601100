"""``Plan``: a Selection and the way it is trained."""

from __future__ import annotations

import copy
import heapq
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .artifact import digest, read_json, write_json
from .errors import GuidedError, pick
from .selection import Selection

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig
    from torch import nn

    from .slice import SliceConfig

ADAPTER = "default"
"""PEFT's name for the first adapter; TRL relies on it."""


@dataclass(frozen=True)
class Plan:
    """What to train, and how.

    Example::

        plan = Plan(selection, mode="slice")
        trainer = SFTTrainer(model, args=args, train_dataset=data,
                             peft_config=plan.peft_config(), callbacks=[GuidedCallback(plan)])

    Args:
        selection: the chosen components.
        mode: ``slice`` (just their rows and columns), ``freeze`` (the whole weights that hold them, and all of a chosen
            layer) or ``lora`` (a stock LoRA on the modules that hold them).
        rank: for ``lora``: mean rank. None spends at most as many parameters as the selection has.
        lr_scale: factor on the trainer's learning rate; applied by GuidedCallback.
    """

    selection: Selection
    mode: str = "slice"
    rank: int | None = None
    lr_scale: float = 1.0

    def __post_init__(self) -> None:
        pick(_MODES, self.mode, "mode")
        if not len(self.selection):
            raise GuidedError(
                "plan: the selection is empty, so nothing would be trained (select at least one component)"
            )
        if self.rank is not None and (self.mode != "lora" or self.rank < 1):
            raise GuidedError(f"rank: {self.rank} with mode {self.mode!r} (only mode 'lora' takes a rank, from 1)")
        if not self.lr_scale > 0:
            raise GuidedError(f"lr_scale: {self.lr_scale} is not above 0")

    def peft_config(self) -> PeftConfig | None:
        """The adapter to hand to a trainer or to ``get_peft_model``; None for ``freeze``, which needs no adapter."""
        return _MODES[self.mode].config(self)

    @property
    def expected_trainable(self) -> frozenset[str]:
        """Names of the parameters that train, as in the model that ``attach`` returns."""
        return frozenset(_MODES[self.mode].names(self))

    @property
    def num_parameters(self) -> int:
        """How many parameters train."""
        return _MODES[self.mode].count(self)

    def attach(self, model: nn.Module) -> nn.Module:
        """Make the model train exactly this plan, and return the model to hand to a trainer.

        For ``slice`` and ``lora`` a PeftModel around the given model, for ``freeze`` the model itself.
        """
        config = self.peft_config()
        if config is None:
            return _freeze(self, model)
        from peft import get_peft_model

        return get_peft_model(model, config)

    def attach_in_place(self, model: nn.Module) -> None:
        """Like ``attach``, but the object itself becomes the PeftModel.

        For callers that cannot hand a new object back, such as a callback of a trainer that already holds the model.
        Everything the trainer does later (saving, resuming, DPO's reference) then sees an ordinary PeftModel.
        """
        if self.peft_config() is None:
            _freeze(self, model)
            return
        attached = self.attach(copy.copy(model))
        model.__class__ = attached.__class__
        model.__dict__ = attached.__dict__

    def is_attached(self, model: nn.Module) -> bool:
        """Whether the model already trains exactly this plan."""
        return trainable_names(model) == self.expected_trainable

    def to_dict(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "rank": self.rank,
            "lr_scale": self.lr_scale,
            "parameters": self.num_parameters,
            "selection": self.selection.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        try:
            return cls(Selection.from_dict(data["selection"]), data["mode"], data["rank"], float(data["lr_scale"]))
        except (KeyError, TypeError) as error:
            raise GuidedError(f"plan: not what Plan.save writes ({error!r})") from None

    @property
    def hash(self) -> str:
        return digest([str(self.selection), self.selection.anatomy.to_dict(), self.mode, self.rank, self.lr_scale])

    def save(self, path: str | os.PathLike[str]) -> None:
        write_json(path, {"kind": "plan", "version": 1} | self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        return cls.from_dict(read_json(path, "plan"))

    def __repr__(self) -> str:
        total = self.selection.anatomy.num_parameters
        return f"Plan({self.mode}: {self.num_parameters:,} of {total:,} parameters, {self.num_parameters / total:.3%})"


def trainable_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that require gradients."""
    return frozenset(name for name, p in model.named_parameters() if p.requires_grad)


# -- slice ----------------------------------------------------------------------------------------------------------
def _slice_config(plan: Plan) -> SliceConfig:
    from .slice import SliceConfig

    slices: dict[str, dict] = {}
    for part in plan.selection.slices():
        # A layer contributes all rows of each projection; chosen columns of the same weight are then among them.
        if part.module not in slices or part.axis == plan.selection.anatomy.rows_axis:
            slices[part.module] = {"axis": part.axis, "index": list(part.index)}
    return SliceConfig(slices=slices, task_type="CAUSAL_LM")


def _slice_names(plan: Plan) -> list[str]:
    return [f"base_model.model.{module}.slice_delta.{ADAPTER}.weight" for module in _modules(plan)]


def _slice_count(plan: Plan) -> int:
    anatomy = plan.selection.anatomy
    whole = {part.module for part in plan.selection.slices() if part.axis == anatomy.rows_axis}
    return sum(
        anatomy.slice_cost(part)
        for part in plan.selection.slices()
        if part.axis == anatomy.rows_axis or part.module not in whole
    )


# -- freeze ---------------------------------------------------------------------------------------------------------
def _freeze_sizes(plan: Plan) -> dict[str, int]:
    """Whole layers train all of their parameters; other components the weights that hold them."""
    anatomy = plan.selection.anatomy
    sizes: dict[str, int] = {}
    layers = {c.layer for c in plan.selection if c.kind == "layer"}
    for layer in layers:
        sizes |= {anatomy.module(layer, name): size for name, size in anatomy.parameters.items()}
    for module in _modules(plan):
        rows, columns = anatomy.shapes[anatomy.relative(module)]
        sizes.setdefault(f"{module}.weight", rows * columns)
    return sizes


def _freeze(plan: Plan, model: nn.Module) -> nn.Module:
    wanted = plan.expected_trainable
    found = {name: p for name, p in model.named_parameters() if name in wanted}
    missing = sorted(wanted - set(found))
    if missing:
        raise GuidedError(f"freeze: this model has no parameter {missing[0]!r} ({len(missing)} missing in all)")
    for name, parameter in found.items():
        if not parameter.is_floating_point():
            raise GuidedError(f"freeze: {name} is quantized and cannot be trained (use mode='slice' or 'lora')")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in found.values():
        parameter.requires_grad_(True)
    return model


# -- lora -----------------------------------------------------------------------------------------------------------
def lora_ranks(plan: Plan) -> dict[str, int]:
    """Share ranks out among the modules that hold chosen components, by score (D'Hondt's method of seats).

    A module's weight is the sum of the scores of its components, each relative to the mean of its kind; one rank at
    a time goes to the module with the largest weight per rank, so a larger budget only adds. Without ``plan.rank``
    the ranks cost at most ``selection.num_parameters``; with it there are ``rank`` per module on average.

    Returns:
        Rank by module name; modules that got none are left out.
    """
    selection, anatomy = plan.selection, plan.selection.anatomy
    weights = _module_weights(selection)
    cost = {module: sum(anatomy.shapes[anatomy.relative(module)]) for module in weights}
    limit = {module: min(anatomy.shapes[anatomy.relative(module)]) for module in weights}
    left = plan.rank * len(weights) if plan.rank else selection.num_parameters
    ranks: dict[str, int] = defaultdict(int)
    queue = [(-weight, module) for module, weight in weights.items()]
    heapq.heapify(queue)
    while queue:
        _, module = heapq.heappop(queue)
        price = 1 if plan.rank else cost[module]
        if price > left:
            break
        left -= price
        ranks[module] += 1
        if ranks[module] < limit[module]:
            heapq.heappush(queue, (-weights[module] / (ranks[module] + 1), module))
    if not ranks:
        raise GuidedError(
            f"lora: {selection.num_parameters:,} parameters buy no rank (the first module takes {min(cost.values()):,}; "
            "raise the budget or give a rank)"
        )
    return dict(ranks)


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


def _lora_config(plan: Plan) -> LoraConfig:
    from peft import LoraConfig

    ranks = lora_ranks(plan)
    typical = sorted(ranks.values())[len(ranks) // 2]
    return LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=sorted(ranks),
        r=typical,
        # alpha = 2 r everywhere, so that every module has the same scale whatever its rank.
        lora_alpha=2 * typical,
        rank_pattern={module: r for module, r in ranks.items() if r != typical},
        alpha_pattern={module: 2 * r for module, r in ranks.items() if r != typical},
        fan_in_fan_out=plan.selection.anatomy.family.transposed,
    )


def _lora_names(plan: Plan) -> list[str]:
    return [
        f"base_model.model.{module}.lora_{side}.{ADAPTER}.weight" for module in lora_ranks(plan) for side in ("A", "B")
    ]


def _lora_count(plan: Plan) -> int:
    anatomy = plan.selection.anatomy
    return sum(rank * sum(anatomy.shapes[anatomy.relative(module)]) for module, rank in lora_ranks(plan).items())


def _modules(plan: Plan) -> list[str]:
    return sorted({part.module for part in plan.selection.slices()})


@dataclass(frozen=True)
class _Mode:
    config: Callable[[Plan], Any]
    names: Callable[[Plan], Any]
    count: Callable[[Plan], int]


_MODES = {
    "slice": _Mode(_slice_config, _slice_names, _slice_count),
    "freeze": _Mode(lambda plan: None, _freeze_sizes, lambda plan: sum(_freeze_sizes(plan).values())),
    "lora": _Mode(_lora_config, _lora_names, _lora_count),
}
