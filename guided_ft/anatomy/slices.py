"""``Slice``: some rows or columns of one weight matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Slice:
    """Some rows or columns of one weight matrix.

    Args:
        module: dotted name of the module in the model; with ``expert``, of the parameter ``[experts, rows, columns]``.
        axis: axis of the weight (of the expert's matrix) as it is stored.
        index: sorted indices along that axis.
        expert: whose matrix of the parameter is meant; None where the module has one weight.
    """

    module: str
    axis: int
    index: tuple[int, ...]
    expert: int | None = None


Part = tuple[str, int, range, "int | None"]
"""A piece of a Slice: module, axis, index, expert."""


def merged(parts: Iterable[Part]) -> list[Slice]:
    """Join the pieces of each matrix and axis, in the order of their names."""
    index: dict[tuple[str, int, int | None], set[int]] = {}
    for module, axis, items, expert in parts:
        index.setdefault((module, axis, expert), set()).update(items)
    return [Slice(m, axis, tuple(sorted(items)), e) for (m, axis, e), items in sorted(index.items())]
