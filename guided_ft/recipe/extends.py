"""``extends``: a recipe that says only how it differs from one other. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import GuidedError
from ..system.files import Json
from .finding import find
from .overrides import give_way
from .says import show
from .strict_yaml import read_mapping

OWN = ("name", "description", "output")
"""What a recipe never takes from the one that it extends."""

Source = Callable[[str], str]
"""Which file a key path was read from."""


def read(path: Path) -> tuple[Json, Source]:
    """The keys of a recipe's file, put over those of the one that it extends, and where each is from.

    A section takes over the keys that are not written again. Data that names a source, name or path of its own takes
    over nothing; steps are not outdone by epochs of the other, nor is another model by its first layer.

    Raises:
        GuidedError: the file, or the one that it extends, cannot be read; or that one extends a third.
    """
    where = spoken(path)
    own = read_mapping(path, where)
    if "extends" not in own:
        return {"name": path.stem, **own}, lambda key: where
    other = own.pop("extends")
    if not isinstance(other, str) or not other.strip():
        raise GuidedError(f"{where}: extends: expected a recipe's name, got {show(other)} (write extends: quickstart)")
    base, below = _base(other, path, where)
    give_way(_paths(own), base)
    data = {key: value for key, value in base.items() if key not in OWN} | {"name": path.stem}
    taken = {key for key in data if key != "name"}
    for key, value in own.items():
        old = data.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and not _renewed(key, value):
            data[key] = {**old, **value}
        else:
            data[key] = value
            taken.discard(key)

    def source(key: str) -> str:
        top, _, rest = key.partition(".")
        mine = own.get(top)
        written = rest.partition(".")[0] in mine if isinstance(mine, dict) and rest else top in own
        return below if top in taken and not written else where

    return data, source


def spoken(path: Path) -> str:
    """A file's name as messages say it."""
    return path.name if path.name.isprintable() else ascii(path.name)


def _base(other: str, path: Path, where: str) -> tuple[Json, str]:
    try:
        found = find(other)
    except GuidedError as error:
        raise GuidedError(f"{where}: extends: {error}") from None
    # A path is one from the recipe that says it, wherever it is run.
    found = path.parent / found
    if found.resolve() == path.resolve():
        raise GuidedError(f"{where}: extends: {show(other)} is this recipe itself (name another)")
    name = spoken(found)
    base = read_mapping(found, f"{where}: extends: {name}")
    if "extends" in base:
        raise GuidedError(f"{where}: extends: {name} itself extends {show(base['extends'])} (extend that one)")
    return base, name


def _paths(own: Json) -> Json:
    """The values of a recipe by key path, sections and all."""
    sections = {top: section for top, section in own.items() if isinstance(section, dict)}
    return own | {f"{top}.{key}": value for top, section in sections.items() for key, value in section.items()}


def _renewed(key: str, section: dict[str, object]) -> bool:
    return key == "data" and not section.keys().isdisjoint(("source", "name", "path"))
