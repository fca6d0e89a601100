"""``Selection``: the components that are chosen. Imports no torch."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..anatomy import KINDS, Anatomy, Component, Slice
from ..errors import GuidedError
from ..system.files import Json, read_json, write_json
from .how import How
from .telling import counted, layers, ranked

_PATTERN = re.compile(r"L(\d{1,6}|\*)(?:(?:\.E(\d{1,6}|\*))?\.([HN])(\d{1,9}|\*))?")


@dataclass(frozen=True, eq=False)
class Selection:
    """A frozen set of components of one model, and how it was chosen.

    Example::

        a | b, a & b, a - b, Component.parse("L3.H5") in a
        Selection.parse("L3.H5 L7.N*", anatomy)

    Args:
        anatomy: the model's.
        components: any iterable; kept sorted and without repeats.
        how: ``How`` it was chosen, or a mapping of its names.
        scores: the score of each chosen component, if it was chosen by score.
    """

    anatomy: Anatomy = field(repr=False)
    components: tuple[Component, ...]
    how: How = field(default_factory=How)
    scores: dict[Component, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        chosen = tuple(sorted({self.anatomy.check(c) for c in self.components}))
        object.__setattr__(self, "components", chosen)
        object.__setattr__(self, "how", How.read(self.how))

    arrays: ClassVar[Mapping[str, np.ndarray]] = {}
    """None: ``to_dict`` says everything."""

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
        return Selection(self.anatomy, tuple(chosen), How(operation=name, of=(self.how, other.how)), scores)

    def __or__(self, other: Selection) -> Selection:
        return self._combine(other, set.union, "|")

    def __and__(self, other: Selection) -> Selection:
        return self._combine(other, set.intersection, "&")

    def __sub__(self, other: Selection) -> Selection:
        return self._combine(other, set.difference, "-")

    def __le__(self, other: Selection) -> bool:
        if other.anatomy != self.anatomy:
            raise GuidedError("selection <=: the two selections are of different models")
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
        """Read what a person types: ``L3.H5 L7.N* L*.H0 L3.E*.N7``. Raises GuidedError on what names nothing."""
        chosen: list[Component] = []
        for word in text.replace(",", " ").split():
            match = _PATTERN.fullmatch(word)
            if match is None:
                raise GuidedError(f"{word!r} names no component (write L3, L3.H5, L3.N120, L3.E2.N7, L3.H* or L*.H5)")
            kind = {None: "layer", "H": "head", "N": "neuron"}[match[3]]
            size = anatomy.neurons_per_expert if kind == "neuron" else anatomy.size(kind)
            layers = anatomy.layers_of(kind) if match[1] == "*" else [int(match[1])]
            # At least one, so that a model without experts refuses the name.
            every = range(max(anatomy.num_experts, 1))
            experts = every if match[2] == "*" else [None if match[2] is None else int(match[2])]
            items = range(size) if match[4] == "*" else [int(match[4] or 0)]
            wanted = itertools.product(layers, experts, items)
            chosen += [anatomy.check(Component(kind, layer, item, expert)) for layer, expert, item in wanted]
        if not chosen:
            raise GuidedError("selection: empty (name at least one component, such as L3.H5)")
        return cls(anatomy, tuple(chosen), How(text=text))

    @property
    def text(self) -> str:
        """The names of all components; ``parse`` reads them back."""
        return " ".join(map(str, self.components))

    def __str__(self) -> str:
        """How much of what, where, how chosen, and the five best (``text`` has all names)."""
        if not self.components:
            return "nothing chosen"
        total = self.anatomy.num_parameters
        lines = [
            f"{counted(self.counts())}, in {layers(c.layer for c in self.components)}: {self.num_parameters:,} of "
            f"{total:,} parameters ({self.fraction:.3%})"
        ]
        how = {
            "method": self.how.method,
            "strategy": self.how.strategy,
            "budget": self.how.budget,
            "text": self.how.text,
        }
        told = ", ".join(f"{key} {value:.60}" for key, value in how.items() if value is not None)
        best = sorted(self.scores.items(), key=lambda item: -item[1])[:5]
        shown = ranked(best) if best else " ".join(map(str, self.components[:5]))
        more = "  ..." if len(self.components) > 5 else ""
        return "\n".join([*lines, *([f"  chosen by {told}"] if told else []), f"  {shown}{more}"])

    def __repr__(self) -> str:
        counts = counted(self.counts())
        return f"Selection({counts or 'empty'}: {self.num_parameters:,} parameters, {self.fraction:.3%})"

    def to_dict(self) -> Json:
        """As JSON data, the anatomy with it."""
        return {
            "components": [str(c) for c in self.components],
            "how": self.how.to_dict(),
            "scores": {str(c): s for c, s in sorted(self.scores.items())},
            "anatomy": self.anatomy.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Json) -> Selection:
        """Rebuild from ``to_dict``. Raises GuidedError for anything else."""
        try:
            components = tuple(Component.parse(text) for text in data["components"])
            scores = {Component.parse(text): float(s) for text, s in data["scores"].items()}
            return cls(Anatomy.from_dict(data["anatomy"]), components, How.read(dict(data["how"])), scores)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, GuidedError):
                raise
            raise GuidedError(f"selection: not what Selection.save writes ({error!r})") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file."""
        data = {"kind": "selection", "version": 1, "parameters": self.num_parameters, "fraction": self.fraction}
        write_json(path, data | self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        """Read what ``save`` wrote. Raises GuidedError for a file that is not there, damaged, or something else."""
        return cls.from_dict(read_json(path, "selection"))
