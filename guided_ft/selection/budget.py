"""``select``: spend a budget of parameters on a ScoreMap. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from ..anatomy import KINDS, Anatomy, Component
from ..errors import GuidedError, pick
from .how import How
from .scoremap import ScoreMap
from .selection import Selection
from .settings import SelectOptions
from .strategies import STRATEGIES

_MANY = 10**15
"""Parameters of no model: shares of it are told from counts."""


def share_of(budget: str | float | int) -> float | None:
    """What share of a model a budget is, 0 to 1; None for a count. Raises GuidedError for one that cannot be read."""
    once, twice = (parse_budget(budget, total) for total in (_MANY, 2 * _MANY))
    return None if once == twice else once / _MANY


def parse_budget(budget: str | float | int, total: int) -> int:
    """Return a number of parameters from ``"2%"``, a share such as ``0.02``, or a count such as ``100000``."""
    text = str(budget).strip().replace("_", "")
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise GuidedError(f"budget: cannot read {budget!r} (write '2%', 0.02 or a number of parameters)") from None
    if text.endswith("%"):
        value = value / 100 * total
    elif value < 1 or (isinstance(budget, float) and value == 1.0):
        value *= total
    if not 0 < value <= total:
        raise GuidedError(f"budget: {budget!r} is not above 0 and at most the whole model ({total:,} parameters)")
    return int(value)


def select(
    scores: ScoreMap,
    budget: str | float | int = SelectOptions.budget,
    kinds: Iterable[str] = SelectOptions.kinds,
    strategy: str = SelectOptions.strategy,
    *,
    seed: int = SelectOptions.seed,
    whole: bool = False,
    first_layer: int = SelectOptions.first_layer,
) -> Selection:
    """Choose components within a budget of parameters.

    Components of different kinds compete by their quantile within their own kind, so scores of different scales can
    be mixed, and a random choice of the same budget has the same make-up. The longest prefix of that order that fits
    is taken: the budget is never exceeded and a larger budget only adds (nested). Ties go by name.

    Args:
        scores: the map to spend on.
        budget: ``"2%"``, ``0.02`` or a number of parameters.
        kinds: which of ``layer``, ``head``, ``neuron`` may be chosen.
        strategy: ``top``, ``bottom``, ``random`` or ``shuffled`` (within layers; both drawn with ``seed``).
        seed: of the random strategies.
        whole: choose all heads or all neurons of a layer together (by their mean score), as ``freeze`` mode needs.
        first_layer: leave the layers below this one alone: back-propagation stops there, and what enters it can be kept
            from one epoch to the next.

    Raises:
        GuidedError: for an unknown kind or strategy, or if the budget buys nothing.
    """
    kinds = (kinds,) if isinstance(kinds, str) else tuple(dict.fromkeys(kinds))
    if not kinds:
        raise GuidedError("kinds: empty (choose from layer, head, neuron)")
    for kind in kinds:
        pick(dict.fromkeys(KINDS), kind, "kinds")
    prioritize = pick(STRATEGIES, strategy, "strategy")
    anatomy = scores.anatomy
    anatomy.check_kinds(kinds)
    limit = parse_budget(budget, anatomy.num_parameters)
    if not 0 <= first_layer < anatomy.num_layers:
        raise GuidedError(f"first_layer: {first_layer}, but this model has layers 0 to {anatomy.num_layers - 1}")

    units: list[tuple[float, tuple[Component, ...]]] = []
    for kind in sorted(kinds, key=KINDS.index):
        values = scores.of(kind)
        members = _members(anatomy, kind, whole)
        if whole and kind != "layer":
            values = values.mean(axis=1)
        rng = np.random.default_rng([seed, KINDS.index(kind)])
        ranked = np.argsort(-prioritize(values, rng).ravel(), kind="stable")
        layers = {layer for layer in anatomy.layers_of(kind) if layer >= first_layer}
        order = [i for i in ranked.tolist() if members[i][0].layer in layers]
        units += [((rank + 0.5) / len(order), members[i]) for rank, i in enumerate(order)]
    units.sort(key=lambda ranked: ranked[0])

    ledger = _Ledger(anatomy)
    chosen: list[Component] = []
    for _, unit in units:
        if not ledger.add(unit, limit):
            break
        chosen += unit
    if not chosen:
        first = units[0][1]
        share = anatomy.cost(first) / anatomy.num_parameters
        name = first[0] if len(first) == 1 else f"{first[0]} to {first[-1]}"
        raise GuidedError(f"budget: {budget} buys nothing: {name} alone costs {share:.3%} (raise the budget)")
    how = How(
        method=scores.meta.get("method"),
        strategy=strategy,
        budget=str(budget),
        budget_parameters=limit,
        kinds=tuple(kinds),
        seed=seed,
        whole=whole,
        first_layer=first_layer,
    )
    return Selection(anatomy, tuple(chosen), how, {c: scores.score(c) for c in chosen})


def _members(anatomy: Anatomy, kind: str, whole: bool) -> list[tuple[Component, ...]]:
    components = [anatomy.component(kind, i, j) for i in range(anatomy.num_layers) for j in range(anatomy.size(kind))]
    size = anatomy.size(kind) if whole else 1
    return [tuple(components[i : i + size]) for i in range(0, len(components), size)]


class _Ledger:
    """Adds components layer by layer and keeps the exact cost of the set without recounting all of it."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.total = 0
        self._layers: dict[int, tuple[set[Component], int]] = {}

    @cached_property
    def _neuron_cost(self) -> int:
        a = self.anatomy
        return a.cost([a.component("neuron", a.layers_of("neuron")[0], 0)])

    def add(self, members: tuple[Component, ...], limit: int) -> bool:
        """Add components of one layer if the total stays within ``limit``; say whether it did."""
        layer = members[0].layer
        inside, cost = self._layers.get(layer, (set(), 0))
        wider = inside | set(members)
        if all(m.kind == "neuron" for m in members) and Component("layer", layer) not in inside:
            # Neurons share no weights, so their costs add up: the common case, kept linear.
            new = cost + len(wider - inside) * self._neuron_cost
        else:
            new = self.anatomy.cost(wider)
        if self.total - cost + new > limit:
            return False
        self._layers[layer] = (wider, new)
        self.total += new - cost
        return True
