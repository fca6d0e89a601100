"""The ways of training a selection: for each, its adapter, the names of its parameters and their number."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import GuidedError
from ..selection.selection import Selection

if TYPE_CHECKING:
    from peft import LoraConfig

    from ..anatomy import Slice
    from ..slice import SliceConfig

ADAPTER = "default"
"""PEFT's name for the first adapter; TRL relies on it."""


# -- slice ----------------------------------------------------------------------------------------------------------
def _slice_config(selection: Selection, rank: int | None) -> SliceConfig:
    from ..slice import SliceConfig

    slices: dict[str, dict] = {
        module: {"axis": p.axis, "index": list(p.index)} for module, p in _slice_parts(selection).items()
    }
    slices |= {module: {"neurons": neurons} for module, neurons in _expert_neurons(selection).items()}
    return SliceConfig(slices=slices, rank=rank, task_type="CAUSAL_LM", chosen=_in_words(selection, rank))


def _in_words(selection: Selection, rank: int | None) -> str:
    """What is trained and how it was chosen, for the model card."""
    counts = ", ".join(f"{n:,} {kind}{'s' * (n > 1)}" for kind, n in selection.counts().items() if n)
    count, total = sum(_slice_sizes(selection, rank).values()), selection.anatomy.num_parameters
    words = f"{counts}: {count:,} of {total:,} parameters ({count / total:.3%})"
    how = {key: selection.how.get(key) for key in ("method", "strategy", "budget")}
    chosen = ", ".join(f"{key} {value}" for key, value in how.items() if isinstance(value, str | int | float))
    return f"{words}; chosen by {chosen}" if chosen else words


def _slice_parts(selection: Selection) -> dict[str, Slice]:
    parts: dict[str, Slice] = {}
    for part in selection.slices():
        # A layer contributes all rows of each projection; chosen columns of the same weight are then among them.
        if part.expert is None and (part.module not in parts or part.axis == selection.anatomy.rows_axis):
            parts[part.module] = part
    return parts


def _expert_neurons(selection: Selection) -> dict[str, dict[int, list[int]]]:
    """The chosen neurons by module and expert. A layer trains all of them, which are all rows of the experts."""
    anatomy = selection.anatomy
    chosen: dict[str, dict[int, set[int]]] = {}
    for component in selection:
        if component.kind == "head" or not anatomy.num_experts:
            continue
        experts = chosen.setdefault(anatomy.experts_module(component.layer), {})
        if component.expert is not None:
            experts.setdefault(component.expert, set()).add(component.index)
        else:
            experts |= {e: set(range(anatomy.neurons_per_expert)) for e in range(anatomy.num_experts)}
    return {module: {e: sorted(index) for e, index in experts.items()} for module, experts in chosen.items()}


def _slice_sizes(selection: Selection, rank: int | None) -> dict[str, int]:
    """The trained tensors and their numbers: a full matrix, or two factors where these hold fewer."""
    anatomy = selection.anatomy
    sizes: dict[str, int] = {}
    for module, part in _slice_parts(selection).items():
        cost, chosen = anatomy.slice_cost(part), len(part.index)
        other = cost // chosen
        a, b = (other, chosen) if part.axis == anatomy.rows_axis else (chosen, other)
        low = {"A": rank * a, "B": rank * b} if rank and rank * (a + b) < cost else {"weight": cost}
        sizes |= {f"base_model.model.{module}.slice_delta.{ADAPTER}.{name}": size for name, size in low.items()}
    for module, experts in _expert_neurons(selection).items():
        prefix = f"base_model.model.{module}.slice_delta.{ADAPTER}"
        column = sum(map(len, experts.values())) * anatomy.hidden_size
        sizes |= {f"{prefix}.up": len(anatomy.family.up) * column, f"{prefix}.down": column}
    return sizes


# -- freeze ---------------------------------------------------------------------------------------------------------
def freeze_sizes(selection: Selection, rank: int | None = None) -> dict[str, int]:
    """Whole layers train all of their parameters; other components the weights that hold them (of all experts)."""
    anatomy = selection.anatomy
    sizes: dict[str, int] = {}
    layers = {c.layer for c in selection if c.kind == "layer"}
    for layer in layers:
        sizes |= {anatomy.module(layer, name): size for name, size in anatomy.parameters.items()}
    for module in _modules(selection):
        name = anatomy.relative(module)
        parameter = module if anatomy.family.of_experts(name) else f"{module}.weight"
        sizes.setdefault(parameter, math.prod(anatomy.shapes[name]))
    return sizes


# -- lora -----------------------------------------------------------------------------------------------------------
def lora_ranks(selection: Selection, rank: int | None) -> dict[str, int]:
    """Share ranks out among the modules that hold chosen components, by score (D'Hondt's method of seats).

    A module's weight is the sum of the scores of its components, each relative to the mean of its kind; one rank at
    a time goes to the module with the largest weight per rank, so a larger budget only adds. Without ``rank``
    the ranks cost at most ``selection.num_parameters``; with it there are ``rank`` per module on average.

    Returns:
        Rank by module name; modules that got none are left out.

    Raises:
        GuidedError: for experts, which are no linear layers, or if not even one rank can be bought.
    """
    anatomy = selection.anatomy
    inside = [c for c in selection if c.kind != "head"] if anatomy.num_experts else []
    if inside:
        raise GuidedError(
            f"lora: {inside[0]} is made of experts, which are no linear layers (use mode 'slice' or 'freeze', or "
            "choose heads only)"
        )
    weights = _module_weights(selection)
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


def _lora_config(selection: Selection, rank: int | None) -> LoraConfig:
    from peft import LoraConfig

    ranks = lora_ranks(selection, rank)
    typical = sorted(ranks.values())[len(ranks) // 2]
    return LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=sorted(ranks),
        r=typical,
        # alpha = 2 r everywhere, so that every module has the same scale whatever its rank.
        lora_alpha=2 * typical,
        rank_pattern={module: r for module, r in ranks.items() if r != typical},
        alpha_pattern={module: 2 * r for module, r in ranks.items() if r != typical},
        fan_in_fan_out=selection.anatomy.family.transposed,
    )


def _lora_names(selection: Selection, rank: int | None) -> list[str]:
    ranks = lora_ranks(selection, rank)
    return [f"base_model.model.{module}.lora_{side}.{ADAPTER}.weight" for module in ranks for side in ("A", "B")]


def _lora_count(selection: Selection, rank: int | None) -> int:
    anatomy = selection.anatomy
    ranks = lora_ranks(selection, rank)
    return sum(r * sum(anatomy.shapes[anatomy.relative(module)]) for module, r in ranks.items())


def _modules(selection: Selection) -> list[str]:
    return sorted({part.module for part in selection.slices()})


@dataclass(frozen=True)
class Mode:
    """One way of training. Each function takes a selection and the rank, which may be ignored.

    Args:
        config: the adapter's configuration, or None if none is needed; raises GuidedError for what it cannot train.
        names: the trained parameters, as named in the model that ``Plan.attach`` returns.
        count: how many numbers they hold.
        rate: a learning rate to begin with, from the share of the model's parameters that train, and the rank; for a
            model ``WIDTH`` wide.
        takes_rank: whether a rank means anything.
    """

    config: Callable[[Selection, int | None], Any]
    names: Callable[[Selection, int | None], Iterable[str]]
    count: Callable[[Selection, int | None], int]
    rate: Callable[[float, int | None], float]
    takes_rank: bool = True


WIDTH = 576
"""Hidden size that the rates are written for (SmolLM2-135M)."""

PACE = {"sft": 1.0, "dpo": 0.2}
"""Of a mode's rate, by trainer: preferences are learned at smaller steps."""


_RATE = 3.3e-3


def _slice_rate(share: float, rank: int | None) -> float:
    """From 0.05 to 3 % of the parameters the best rate hardly depends on how many train."""
    rate = _RATE * max(1.0, 0.0005 / share) * min(1.0, math.sqrt(0.03 / share))
    # Products begin with one factor at zero, and so more slowly.
    return 3 * rate if rank else rate


MODES = {
    "slice": Mode(
        _slice_config,
        _slice_sizes,
        lambda s, rank: sum(_slice_sizes(s, rank).values()),
        _slice_rate,
    ),
    "freeze": Mode(
        lambda s, rank: None,
        freeze_sizes,
        lambda s, rank: sum(freeze_sizes(s).values()),
        # On SmolLM2 what suits whole weights, 9 % of them and all of them, lies near this line.
        lambda share, rank: _RATE * min(1.0, 0.01 / share),
        takes_rank=False,
    ),
    "lora": Mode(
        _lora_config,
        _lora_names,
        _lora_count,
        lambda share, rank: _RATE * min(1.0, math.sqrt(0.01 / share)),
    ),
}
