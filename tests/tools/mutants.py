"""Deliberate faults, kept as exact replacements in ``tests/mutants/*.yaml``; each names the fast tests that catch it.

A replacement of text breaks less often than a patch by line numbers: it holds as long as the line that it breaks is in
its room, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[1] / "mutants"
ROOT = FOLDER.parents[1]


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Args:
        name: what is wrong then.
        where: a room of ``guided_ft``, or a file in it.
        old, new: the text that is there, once, and what takes its place.
        tests: that must fail then, as pytest takes them.
    """

    name: str
    where: str
    old: str
    new: str
    tests: tuple[str, ...]

    def file(self, root: Path = ROOT) -> Path:
        """The file that holds the text. Raises ValueError unless it is there once."""
        place = root / "guided_ft" / self.where
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        found = [path for path in files for _ in range(path.read_text(encoding="utf-8").count(self.old))]
        if len(found) != 1:
            raise ValueError(f"{self.name}: {self.where} holds {len(found)} times {self.old!r}")
        return found[0]

    def broken(self, root: Path = ROOT) -> str:
        """The text of the file with the fault in it."""
        return self.file(root).read_text(encoding="utf-8").replace(self.old, self.new)


def mutants() -> list[Mutant]:
    """All of them, by file and as they stand there."""
    found = [row for path in sorted(FOLDER.glob("*.yaml")) for row in yaml.safe_load(path.read_text(encoding="utf-8"))]
    return [Mutant(**row | {"tests": tuple(row["tests"])}) for row in found]
