"""``Located``: a map of directions as a run keeps it, with the scores of components that it adds up to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ...selection.directions import DirectionMap
from ...selection.scoremap import Meta, ScoreMap

DIRECTIONS = "directions.safetensors"


@dataclass(frozen=True)
class Located:
    """Directions, and what they say about layers, heads and neurons: ``scores``, which the page shows."""

    directions: DirectionMap

    @cached_property
    def scores(self) -> ScoreMap:
        return self.directions.component_scores()

    @property
    def meta(self) -> Meta:
        return self.directions.meta

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.scores.kinds

    @property
    def sizes(self) -> dict[str, int]:
        """How many directions were scored."""
        return {"direction": sum(map(len, self.directions.scores.values()))}

    def of(self, kind: str) -> np.ndarray:
        return self.scores.of(kind)

    def __str__(self) -> str:
        return str(self.directions)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the scores to ``path``, and the directions into the same folder."""
        self.scores.save(path)
        self.directions.save(Path(path).with_name(DIRECTIONS))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Located:
        """Read the directions that were saved with ``path``."""
        return cls(DirectionMap.load(Path(path).with_name(DIRECTIONS)))
