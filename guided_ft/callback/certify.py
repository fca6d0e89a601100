"""Proof that what should be frozen is frozen."""

from __future__ import annotations

from dataclasses import dataclass

from ..slice.fingerprint import base_tensors as base_tensors
from ..slice.fingerprint import canonical as canonical
from ..slice.fingerprint import fingerprint as fingerprint


@dataclass(frozen=True)
class Certificate:
    """How many tensors that should not have moved are bit-identical.

    Args:
        identical: tensors with the same bits as before.
        total: tensors that should not have moved.
        moved: names of the others.
    """

    identical: int
    total: int
    moved: tuple[str, ...] = ()

    @classmethod
    def compare(cls, before: dict[str, str], after: dict[str, str]) -> Certificate:
        moved = tuple(name for name, value in before.items() if after.get(name) != value)
        return cls(len(before) - len(moved), len(before), moved)

    @property
    def ok(self) -> bool:
        return not self.moved and self.total > 0

    def __str__(self) -> str:
        return f"{self.identical} of {self.total} frozen tensors bit-identical"
