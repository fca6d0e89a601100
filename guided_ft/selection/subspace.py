"""``Subspace``: the directions that are chosen, which become the rows of a LoRA's fixed ``A``. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..anatomy import Anatomy
from ..errors import GuidedError
from ..system.files import beside, digest, read_arrays, read_json, write_arrays, write_json
from .directions import check_basis, in_order


@dataclass(frozen=True, eq=False)
class Subspace:
    """For each of some linear layers, the input directions along which it is trained, and how they were chosen.

    Args:
        anatomy: of the model.
        bases: float32 ``[r, in]`` by the full name of a layer: directions of length 1.
        how: provenance, free-form JSON data.
    """

    anatomy: Anatomy = field(repr=False)
    bases: Mapping[str, np.ndarray]
    how: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, basis in self.bases.items():
            check_basis(self.anatomy, name, basis)
        object.__setattr__(self, "bases", in_order(self.anatomy, self.bases))

    @property
    def ranks(self) -> dict[str, int]:
        """Number of directions by layer."""
        return {name: len(basis) for name, basis in self.bases.items()}

    @property
    def num_parameters(self) -> int:
        """Numbers that train: for each direction a column as long as its layer's output."""
        return sum(r * self.anatomy.outputs(name) for name, r in self.ranks.items())

    @property
    def fraction(self) -> float:
        """Share of the model's parameters, 0 to 1."""
        return self.num_parameters / self.anatomy.num_parameters

    def __len__(self) -> int:
        return sum(self.ranks.values())

    @property
    def hash(self) -> str:
        """Digest of the directions."""
        return digest(*(part for name, basis in self.bases.items() for part in (name.encode(), basis)))

    def to_dict(self) -> dict[str, Any]:
        """What is chosen as JSON data, without the directions themselves."""
        return {"ranks": self.ranks, "hash": self.hash, "how": self.how, "anatomy": self.anatomy.to_dict()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``path`` (safetensors) and, beside it, how they were chosen as ``.json``."""
        write_json(beside(path), {"kind": "subspace", "version": 1} | self.to_dict())
        write_arrays(path, dict(self.bases))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Subspace:
        """Read what ``save`` wrote. Raises GuidedError for anything else."""
        data = read_json(beside(path), "subspace")
        if not isinstance(data.get("anatomy"), dict) or not isinstance(data.get("how"), dict):
            raise GuidedError(f"{path}: its .json lacks 'anatomy' or 'how'")
        found = cls(Anatomy.from_dict(data["anatomy"]), read_arrays(path), data["how"])
        if found.hash != data.get("hash"):
            raise GuidedError(f"{path}: these are not the directions that its .json tells of")
        return found

    def __repr__(self) -> str:
        words = f"{len(self):,} directions in {len(self.bases)} layers"
        return f"Subspace({words}: {self.num_parameters:,} parameters, {self.fraction:.3%})"
