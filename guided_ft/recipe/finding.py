"""The recipes that come with the package: where they lie, and by which names. Imports no torch."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from ..errors import GuidedError, did_you_mean


def folder() -> Path:
    """Where the recipes lie: in the installed package, or beside it in the repository."""
    package = Path(__file__).parents[1]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name, topic by topic.

    Raises:
        GuidedError: two have the same name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder().rglob("*.yaml"), key=lambda path: (topic(path), path.stem)):
        if path.stem in found:
            both = " and ".join(p.relative_to(folder()).as_posix() for p in (found[path.stem], path))
            raise GuidedError(f"recipes: {both} have the same name (rename one)")
        found[path.stem] = path
    return found


def topic(path: Path) -> str:
    """The folder of a shipped recipe below that of all; nothing for one that lies in none."""
    inside = path.parent.relative_to(folder()).as_posix()
    return "" if inside == "." else inside


def times() -> dict[str, str]:
    """How long each shipped recipe takes on one CPU core, in words: ``12 min``, or ``about 12 min`` where that is
    estimated. One that nobody timed is not among them."""
    path = folder() / "times.csv"
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["recipe"]: f"{'' if row['measured'] == 'yes' else 'about '}{row['minutes']} min" for row in rows}


def find(path_or_name: str | os.PathLike[str]) -> Path:
    """The file of a recipe. Raises GuidedError for a name that no shipped one has."""
    text = os.fspath(path_or_name)
    if isinstance(path_or_name, Path) or "/" in text or os.sep in text or text.endswith((".yaml", ".yml")):
        return Path(text)
    known = shipped()
    if text not in known:
        raise GuidedError(f"{text!r}: no shipped recipe has this name ({did_you_mean(text[:60], known)})")
    return known[text]
