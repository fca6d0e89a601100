"""Deliberate faults, kept as exact replacements in ``tests/mutants/*.yaml``; each names the fast tests that catch it.

A replacement of text breaks less often than a patch by line numbers: it holds as long as the line that it breaks is
there, once.
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
        file: below ``guided_ft``.
        old, new: the text that is there, once, and what takes its place.
        tests: that must fail then, as pytest takes them.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def broken(self, root: Path = ROOT) -> str:
        """The text of the file with the fault in it. Raises ValueError where it no longer applies."""
        text = (root / "guided_ft" / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} holds {text.count(self.old)} times {self.old!r}")
        return text.replace(self.old, self.new)


def mutants() -> list[Mutant]:
    """All of them, by file and as they stand there."""
    found = [row for path in sorted(FOLDER.glob("*.yaml")) for row in yaml.safe_load(path.read_text(encoding="utf-8"))]
    return [Mutant(**row | {"tests": tuple(row["tests"])}) for row in found]
