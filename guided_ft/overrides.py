"""``key.path=value`` on the command line: the same keys and the same YAML as in the file. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from .errors import GuidedError
from .recipe_errors import Problem, RecipeError, spell
from .recipe_fields import leaves, listed
from .strict_yaml import parse, shown

WHERE = "override"


def apply(overrides: Sequence[str], data: dict[str, Any], model: type[BaseModel]) -> set[str]:
    """Set the overrides in ``data``, the last one winning, and return the key paths that were set.

    A key may be written without its section where only one section has it: ``budget=1%``. Unknown keys are set as they
    are, for the validation to find.

    Raises:
        GuidedError: if a text is not ``key=value``, the value is not YAML, or the key could be one of several.
    """
    touched: set[str] = set()
    problems: list[Problem] = []
    for override in overrides:
        typed, equals, value = override.partition("=")
        typed = typed.strip()
        if not (typed and equals):
            raise GuidedError(f"{WHERE}: {shown(override)} is not KEY=VALUE (write it like steps=50)")
        paths = _paths(typed, model)
        path = paths[0].split(".")
        if len(paths) > 1:
            problems.append((typed, f"several keys have this name (write {listed(paths)})"))
        elif _put(data, path, parse(value, f"{WHERE}: {spell(path)}", lines=False)):
            touched.add(spell(path))
        else:
            problems.append((spell(path), f"unknown key ({spell(path[:-1])} has no keys below it)"))
    if problems:
        raise RecipeError(problems, WHERE)
    return touched


def _paths(typed: str, model: type[BaseModel]) -> list[str]:
    if "." in typed or typed in model.model_fields:
        return [typed]
    return [path for path in leaves(model) if path.endswith(f".{typed}")] or [typed]


def _put(data: dict[str, Any], path: list[str], value: Any) -> bool:
    """Set a value deep in nested mappings; False if something on the way is not a mapping."""
    for key in path[:-1]:
        inner = data.get(key)
        if inner is None:
            inner = data[key] = {}
        if not isinstance(inner, dict):
            return False
        data = inner
    data[path[-1]] = value
    return True
