"""``key.path=value`` on the command line: the same keys and the same YAML as in the file. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from ..errors import GuidedError
from ..system.files import Json
from ..task.read_file import ENDINGS
from .fields import NAME_BYTES
from .mends import Problem, RecipeError, spell
from .says import leaves, listed
from .strict_yaml import parse, shown

WHERE = "override"


def apply(overrides: Sequence[str], data: dict[str, object], model: type[BaseModel]) -> set[str]:
    """Set the overrides in ``data``, the last one winning, and return the key paths that were set.

    A key may be written without its section where only one section has it: ``budget=1%``. Unknown keys are set as they
    are, for the validation to find. ``data=FILE`` trains on a file; where the source of the data changes, what the
    recipe says about its own data is dropped, and with another model its first layer.

    Raises:
        GuidedError: if a text is not ``key=value``, the value is not YAML, or the key could be one of several.
    """
    touched: set[str] = set()
    values: list[tuple[list[str], Any]] = []
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
            continue
        read = parse(value, f"{WHERE}: {spell(path)}", lines=False)
        if path == ["data"] and isinstance(read, str) and read.lower().endswith(ENDINGS):
            values += [(["data", "source"], "file"), (["data", "path"], read)]
        else:
            values.append((path, read))
    said = {".".join(path): value for path, value in values}
    if "train.steps" in said and said.get("train.epochs") is not None:
        problems.append(("train.steps", "train.epochs takes its place (write one of the two)"))
    give_way(said, data)
    _change_source(said, data)
    for path, value in values:
        if _put(data, path, value):
            touched.add(spell(path))
        else:
            problems.append((spell(path), f"unknown key ({spell(path[:-1])} has no keys below it)"))
    if problems:
        raise RecipeError(problems, WHERE)
    return touched


def give_way(said: Mapping[str, Any], data: Json) -> None:
    """Drop from ``data`` what would stand in the way of the keys that are said over it.

    Who says steps means them, whatever epochs a recipe has. A first layer counts its own model's layers, and another
    model may have fewer.

    Args:
        said: values by key path.
        data: a recipe's sections, not checked yet.
    """
    train, select = data.get("train"), data.get("select")
    if "train.steps" in said and "train.epochs" not in said and isinstance(train, dict):
        train.pop("epochs", None)
    if said.get("model", data.get("model")) != data.get("model") and isinstance(select, dict):
        select.pop("first_layer", None)


def _change_source(values: Mapping[str, Any], data: Json) -> None:
    """Drop what a recipe says about its own data (filter, counts, name, answer length) if others are named."""
    own = data.get("data")
    own = own if isinstance(own, dict) else {}
    kind = own.get("source", "reasoning_gym")
    named = {key: values.get(f"data.{key}") for key in ("source", "path", "name")}
    if all(value in (None, own.get(key, kind if key == "source" else None)) for key, value in named.items()):
        return
    if not all(value is None or isinstance(value, str) for value in named.values()):
        return  # not even text: the validation says so
    path, name = named["path"], named["name"]
    source = named["source"] or ("file" if path else kind if kind != "file" else "hub")
    data["data"] = {"source": source}
    if kind == "hub" and path and not name:
        # A local copy of a set has its columns.
        data["data"] |= {key: own[key] for key in ("format", "columns", "prompt") if key in own}
    if source == "reasoning_gym" and "preference" in own:
        # That is how answers are made, not which.
        data["data"]["preference"] = own["preference"]
    data.pop("description", None)
    if isinstance(data.get("evaluate"), dict):
        data["evaluate"].pop("max_new_tokens", None)
    stem = PurePath(path).stem if path else str(name or "").rpartition("/")[2]
    letters = re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:100]
    data["name"] = letters.encode()[:NAME_BYTES].decode(errors="ignore") or str(source)


def _paths(typed: str, model: type[BaseModel]) -> list[str]:
    if "." in typed or typed in model.model_fields:
        return [typed]
    return [path for path in leaves(model) if path.endswith(f".{typed}")] or [typed]


def _put(data: dict[str, object], path: list[str], value: object) -> bool:
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
