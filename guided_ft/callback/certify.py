"""Proof that what should be frozen is frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import GuidedError
from ..slice.fingerprint import base_tensors as base_tensors
from ..slice.fingerprint import canonical as canonical
from ..slice.fingerprint import fingerprint as fingerprint
from ..system.files import write_json


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

    def save(self, path: Path, plan_hash: str) -> None:
        """Write it as JSON, with what it is of."""
        data = {"kind": "certificate", "version": 1, "moved": list(self.moved)}
        write_json(path, data | {"identical": self.identical, "total": self.total, "plan": plan_hash})

    def check(self) -> None:
        """Raise GuidedError if anything has moved."""
        if self.moved:
            count = len(self.moved)
            raise GuidedError(f"certificate: {self.moved[0]} moved although it is frozen ({count} tensors in all)")

    def __str__(self) -> str:
        return f"{self.identical} of {self.total} frozen tensors bit-identical"
