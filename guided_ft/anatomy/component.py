"""``Component``: the name of a layer, a head or a neuron. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import GuidedError

KINDS = ("layer", "head", "neuron")
_LETTER = {"layer": "", "head": "H", "neuron": "N"}
_TEXT = re.compile(r"L(\d{1,6})(?:\.([HN])(\d{1,9}))?")


@dataclass(frozen=True, order=True, slots=True)
class Component:
    """One part of a model that can be scored and chosen.

    Example::

        Component.parse("L3.N120")  # Component("neuron", 3, 120), prints L3.N120

    Args:
        kind: ``layer``, ``head`` or ``neuron``.
        layer: number of the layer, from 0.
        index: number of the (query) head or neuron in the layer, from 0; 0 for a layer.
    """

    kind: str
    layer: int
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> Component:
        """Read ``L3``, ``L3.H5`` or ``L3.N120``. Raises GuidedError on anything else."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise GuidedError(f"{text!r} names no component (write L3, L3.H5 or L3.N120)")
        kind = {None: "layer", "H": "head", "N": "neuron"}[match[2]]
        return cls(kind, int(match[1]), int(match[3] or 0))

    def __str__(self) -> str:
        return f"L{self.layer}" + (f".{_LETTER[self.kind]}{self.index}" if self.kind != "layer" else "")

    __repr__ = __str__
