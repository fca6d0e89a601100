"""``Subspace``: the directions that are chosen, which become the rows of a LoRA's fixed ``A``. Imports no torch."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..anatomy import KINDS, Anatomy, Component, Slice
from ..errors import GuidedError
from ..system.files import Json, digest, read_json, write_json
from .directions import check_basis, in_order
from .how import How


@dataclass(frozen=True, eq=False)
class Subspace:
    """For each of some linear layers, the input directions along which it is trained, and how they were chosen.

    Args:
        anatomy: of the model.
        bases: float32 ``[r, in]`` by the full name of a layer: directions of length 1.
        how: ``How`` they were chosen, or a mapping of its names.
    """

    anatomy: Anatomy = field(repr=False)
    bases: Mapping[str, np.ndarray]
    how: How = field(default_factory=How)

    def __post_init__(self) -> None:
        for name, basis in self.bases.items():
            check_basis(self.anatomy, name, basis)
        object.__setattr__(self, "bases", in_order(self.anatomy, self.bases))
        object.__setattr__(self, "how", How.read(self.how))

    components: ClassVar[tuple[Component, ...]] = ()
    """None: directions are no components, but lie inside."""

    # -- reading ----------------------------------------------------------------------------------------------------
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

    def slices(self) -> list[Slice]:
        """What answers to the directions: all outputs of each layer."""
        a = self.anatomy
        return [Slice(name, a.rows_axis, tuple(range(a.outputs(name)))) for name in self.bases]

    def counts(self) -> dict[str, int]:
        """How many directions there are; no components."""
        return dict.fromkeys(KINDS, 0) | {"direction": len(self)}

    def per_layer(self, kind: str = "direction") -> list[int]:
        """How many directions in each layer of the model."""
        counts = [0] * self.anatomy.num_layers
        for name, r in self.ranks.items():
            counts[self.anatomy.layer_of(name)] += r
        return counts

    def __len__(self) -> int:
        return sum(self.ranks.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subspace) and (self.anatomy, self.text) == (other.anatomy, other.text)

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def text(self) -> str:
        """What tells it from others: a digest of its directions."""
        return "subspace " + digest(*(part for m, basis in self.bases.items() for part in (m.encode(), basis)))

    def __str__(self) -> str:
        """How much of what was chosen, in one line."""
        return (
            f"{len(self):,} directions in {len(self.bases)} linear layers: {self.num_parameters:,} of "
            f"{self.anatomy.num_parameters:,} parameters ({self.fraction:.3%})"
        )

    def __repr__(self) -> str:
        words = f"{len(self):,} directions in {len(self.bases)} layers"
        return f"Subspace({words}: {self.num_parameters:,} parameters, {self.fraction:.3%})"

    # -- files ------------------------------------------------------------------------------------------------------
    def to_dict(self) -> Json:
        """As JSON data; the directions as base64 of their float32 numbers, bit by bit."""
        coded = {
            name: {"rank": len(basis), "float32": base64.b64encode(basis.astype("<f4").tobytes()).decode()}
            for name, basis in self.bases.items()
        }
        return {"bases": coded, "how": self.how.to_dict(), "anatomy": self.anatomy.to_dict()}

    @classmethod
    def from_dict(cls, data: Json) -> Subspace:
        """Rebuild from ``to_dict``. Raises GuidedError for anything else."""
        try:
            bases = {str(name): _decoded(**coded) for name, coded in data["bases"].items()}
            return cls(Anatomy.from_dict(data["anatomy"]), bases, How.read(dict(data["how"])))
        except (
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            OverflowError,
            RecursionError,
            binascii.Error,
        ) as error:
            if isinstance(error, GuidedError):
                raise
            raise GuidedError(f"subspace: not what Subspace.save writes ({error!r:.200})") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file."""
        data = {"kind": "subspace", "version": 1, "parameters": self.num_parameters, "fraction": self.fraction}
        write_json(path, data | self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Subspace:
        return cls.from_dict(read_json(path, "subspace"))


def _decoded(rank: int, float32: str) -> np.ndarray:
    numbers = np.frombuffer(base64.b64decode(float32, validate=True), dtype="<f4").astype(np.float32)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1 or numbers.size % rank:
        raise GuidedError(f"subspace: {numbers.size} numbers are not {rank!r} directions")
    return numbers.reshape(rank, -1)
