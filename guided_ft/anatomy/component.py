"""``Component``: the name of a layer, a head or a neuron. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering

from ..errors import GuidedError

KINDS = ("layer", "head", "neuron")
_LETTER = {"layer": "", "head": "H", "neuron": "N"}
_TEXT = re.compile(r"L(\d{1,6})(?:\.H(\d{1,9})|(?:\.E(\d{1,6}))?\.N(\d{1,9}))?")


@total_ordering
@dataclass(frozen=True, slots=True)
class Component:
    """One part of a model that can be scored and chosen.

    Example::

        Component.parse("L3.N120")  # Component("neuron", 3, 120), prints L3.N120
        Component.parse("L3.E2.N7")  # Component("neuron", 3, 7, expert=2), in a mixture of experts

    Args:
        kind: ``layer``, ``head`` or ``neuron``.
        layer: number of the layer, from 0.
        index: number of the (query) head or neuron in the layer (or in the expert), from 0; 0 for a layer.
        expert: number of the expert that a neuron belongs to, from 0; None outside of experts.
    """

    kind: str
    layer: int
    index: int = 0
    expert: int | None = None

    @classmethod
    def parse(cls, text: str) -> Component:
        """Read ``L3``, ``L3.H5``, ``L3.N120`` or ``L3.E2.N7``. Raises GuidedError on anything else."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise GuidedError(f"{text!r} names no component (write L3, L3.H5, L3.N120 or L3.E2.N7)")
        layer, head, expert, neuron = (None if group is None else int(group) for group in match.groups())
        assert layer is not None
        if neuron is not None:
            return cls("neuron", layer, neuron, expert)
        return cls("layer", layer) if head is None else cls("head", layer, head)

    def __str__(self) -> str:
        expert = "" if self.expert is None else f".E{self.expert}"
        return f"L{self.layer}{expert}" + (f".{_LETTER[self.kind]}{self.index}" if self.kind != "layer" else "")

    __repr__ = __str__

    def __lt__(self, other: object) -> bool:
        return self._order() < other._order() if isinstance(other, Component) else NotImplemented

    def _order(self) -> tuple[str, int, int, int]:
        return self.kind, self.layer, -1 if self.expert is None else self.expert, self.index
