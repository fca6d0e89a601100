"""``Subspace``: the directions that are chosen, which become the rows of a LoRA's fixed ``A``. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..anatomy import KINDS, Anatomy, Component, Slice
from ..errors import GuidedError
from ..system.arrays import read_with_arrays, write_with_arrays
from ..system.files import MEND, Json, digest
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
    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """What ``to_dict`` leaves out: the directions."""
        return self.bases

    def to_dict(self) -> Json:
        """As JSON data, but for the ``arrays``, which it tells by their digest."""
        how, anatomy = self.how.to_dict(), self.anatomy.to_dict()
        return {"ranks": self.ranks, "directions": self.text, "how": how, "anatomy": anatomy}

    @classmethod
    def from_dict(cls, data: Json, arrays: Mapping[str, np.ndarray]) -> Subspace:
        """Rebuild from ``to_dict`` and ``arrays``. Raises GuidedError for anything else, or arrays of another one."""
        try:
            found = cls(Anatomy.from_dict(data["anatomy"]), arrays, How.read(dict(data["how"])))
            if (found.ranks, found.text) != (data["ranks"], data["directions"]):
                raise GuidedError(f"subspace: its arrays are not those that it was saved with ({MEND})")
            return found
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            if isinstance(error, GuidedError):
                raise
            raise GuidedError(f"subspace: not what Subspace.save writes ({error!r:.200})") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, and the directions beside it as ``.safetensors``."""
        data = {"kind": "subspace", "version": 2, "parameters": self.num_parameters, "fraction": self.fraction}
        write_with_arrays(path, data | self.to_dict(), self.arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Subspace:
        """Read what ``save`` wrote. Raises GuidedError for anything else."""
        return cls.from_dict(*read_with_arrays(path, "subspace", 2))
