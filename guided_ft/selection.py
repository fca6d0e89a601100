"""``Selection``: the components that are chosen, and ``select``, which spends a budget on a ScoreMap.

Imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .anatomy import KINDS, Anatomy, Component, Slice
from .artifact import read_json, write_json
from .errors import GuidedError, pick
from .scoremap import ScoreMap

_PATTERN = re.compile(r"L(\d{1,6}|\*)(?:\.([HN])(\d{1,9}|\*))?")


@dataclass(frozen=True, eq=False)
class Selection:
    """A frozen set of components of one model, and how it was chosen.

    Example::

        a | b, a & b, a - b, Component.parse("L3.H5") in a
        Selection.parse("L3.H5 L7.N*", anatomy)

    Args:
        anatomy: the model's.
        components: any iterable; kept sorted and without repeats.
        how: provenance, free-form JSON data.
        scores: the score of each chosen component, if it was chosen by score.
    """

    anatomy: Anatomy = field(repr=False)
    components: tuple[Component, ...]
    how: dict[str, Any] = field(default_factory=dict)
    scores: dict[Component, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        chosen = tuple(sorted({self.anatomy.check(c) for c in self.components}))
        object.__setattr__(self, "components", chosen)

    # -- reading ----------------------------------------------------------------------------------------------------
    @property
    def num_parameters(self) -> int:
        """Parameters of the chosen components (see ``Anatomy.cost``)."""
        return self.anatomy.cost(self.components)

    @property
    def fraction(self) -> float:
        """Share of the model's parameters, 0 to 1."""
        return self.num_parameters / self.anatomy.num_parameters

    def slices(self) -> list[Slice]:
        """The rows and columns of weights that these components train."""
        return self.anatomy.trainable(self.components)

    def counts(self) -> dict[str, int]:
        """How many components of each kind."""
        return {kind: sum(c.kind == kind for c in self.components) for kind in KINDS}

    def per_layer(self, kind: str) -> list[int]:
        """How many components of a kind in each layer."""
        layers = [c.layer for c in self.components if c.kind == kind]
        return [layers.count(i) for i in range(self.anatomy.num_layers)]

    # -- set algebra ------------------------------------------------------------------------------------------------
    def _combine(self, other: Selection, operation: Callable[[set, set], set], name: str) -> Selection:
        if other.anatomy != self.anatomy:
            raise GuidedError(f"selection {name}: the two selections are of different models")
        chosen = operation(set(self.components), set(other.components))
        scores = {c: s for c, s in {**other.scores, **self.scores}.items() if c in chosen}
        return Selection(self.anatomy, tuple(chosen), {"operation": name, "of": [self.how, other.how]}, scores)

    def __or__(self, other: Selection) -> Selection:
        return self._combine(other, set.union, "|")

    def __and__(self, other: Selection) -> Selection:
        return self._combine(other, set.intersection, "&")

    def __sub__(self, other: Selection) -> Selection:
        return self._combine(other, set.difference, "-")

    def __le__(self, other: Selection) -> bool:
        return set(self.components) <= set(other.components)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and (self.anatomy, self.components) == (other.anatomy, other.components)

    def __hash__(self) -> int:
        return hash(self.components)

    def __len__(self) -> int:
        return len(self.components)

    def __iter__(self) -> Iterator[Component]:
        return iter(self.components)

    def __contains__(self, component: Component) -> bool:
        return component in set(self.components)

    # -- text and files ---------------------------------------------------------------------------------------------
    @classmethod
    def parse(cls, text: str, anatomy: Anatomy) -> Selection:
        """Read what a person types: ``L3.H5 L7.N* L*.H0``. Raises GuidedError on what names nothing."""
        chosen: list[Component] = []
        for word in text.replace(",", " ").split():
            match = _PATTERN.fullmatch(word)
            if match is None:
                raise GuidedError(f"{word!r} names no component (write L3, L3.H5, L3.N120, L3.H* or L*.H5)")
            kind = {None: "layer", "H": "head", "N": "neuron"}[match[2]]
            layers = range(anatomy.num_layers) if match[1] == "*" else [int(match[1])]
            items = range(anatomy.size(kind)) if match[3] == "*" else [int(match[3] or 0)]
            chosen += [anatomy.check(Component(kind, layer, item)) for layer in layers for item in items]
        if not chosen:
            raise GuidedError("selection: empty (name at least one component, such as L3.H5)")
        return cls(anatomy, tuple(chosen), {"text": text})

    def __str__(self) -> str:
        return " ".join(map(str, self.components))

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {kind}s" for kind, n in self.counts().items() if n)
        return f"Selection({counts or 'empty'}: {self.num_parameters:,} parameters, {self.fraction:.3%})"

    def to_dict(self) -> dict[str, Any]:
        return {
            "components": [str(c) for c in self.components],
            "how": self.how,
            "scores": {str(c): s for c, s in sorted(self.scores.items())},
            "anatomy": self.anatomy.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Selection:
        try:
            components = tuple(Component.parse(text) for text in data["components"])
            scores = {Component.parse(text): float(s) for text, s in data["scores"].items()}
            return cls(Anatomy.from_dict(data["anatomy"]), components, dict(data["how"]), scores)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            if isinstance(error, GuidedError):
                raise
            raise GuidedError(f"selection: not what Selection.save writes ({error!r})") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        data = {"kind": "selection", "version": 1, "parameters": self.num_parameters, "fraction": self.fraction}
        write_json(path, data | self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        return cls.from_dict(read_json(path, "selection"))


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


# -- strategies: each turns the scores of one kind into priorities, higher first ---------------------------------------
def _top(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return scores


def _bottom(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return -scores


def _random(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.random(scores.shape)


def _shuffled(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same scores in the same layers, on other components: is it the units or only their layers?"""
    return rng.permuted(scores.reshape(len(scores), -1), axis=1).reshape(scores.shape)


STRATEGIES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "top": _top,
    "bottom": _bottom,
    "random": _random,
    "shuffled": _shuffled,
}


def select(
    scores: ScoreMap,
    budget: str | float | int = "2%",
    kinds: Iterable[str] = ("head", "neuron"),
    strategy: str = "top",
    *,
    seed: int = 0,
    whole: bool = False,
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
    limit = parse_budget(budget, anatomy.num_parameters)

    units: list[tuple[float, tuple[Component, ...]]] = []
    for kind in sorted(kinds, key=KINDS.index):
        values = scores.of(kind)
        members = _members(anatomy, kind, whole)
        if whole and kind != "layer":
            values = values.mean(axis=1)
        rng = np.random.default_rng([seed, KINDS.index(kind)])
        order = np.argsort(-prioritize(values, rng).ravel(), kind="stable")
        units += [((rank + 0.5) / len(order), members[i]) for rank, i in enumerate(order)]
    units.sort(key=lambda unit: unit[0])

    ledger, chosen = _Ledger(anatomy), []
    for _, members in units:
        if not ledger.add(members, limit):
            break
        chosen += members
    if not chosen:
        first = units[0][1]
        share = anatomy.cost(first) / anatomy.num_parameters
        name = first[0] if len(first) == 1 else f"{first[0]} to {first[-1]}"
        raise GuidedError(f"budget: {budget} buys nothing: {name} alone costs {share:.3%} (raise the budget)")
    how = {
        "method": (scores.meta or {}).get("method"),
        "strategy": strategy,
        "budget": str(budget),
        "budget_parameters": limit,
        "kinds": list(kinds),
        "seed": seed,
        "whole": whole,
    }
    return Selection(anatomy, tuple(chosen), how, {c: scores.score(c) for c in chosen})


def _members(anatomy: Anatomy, kind: str, whole: bool) -> list[tuple[Component, ...]]:
    components = anatomy.components(kind)
    size = anatomy.size(kind) if whole else 1
    return [tuple(components[i : i + size]) for i in range(0, len(components), size)]


class _Ledger:
    """Adds components layer by layer and keeps the exact cost of the set without recounting all of it."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.total = 0
        self._layers: dict[int, tuple[set[Component], int]] = {}
        self._neuron_cost = anatomy.cost([Component("neuron", 0, 0)])

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
