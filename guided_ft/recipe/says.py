"""What a person is told about a value in a recipe, and which fields there are. Imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..errors import MANY, did_you_mean
from .strict_yaml import shown


@dataclass(frozen=True)
class Says:
    """What a field expects and what to write instead; ``{default}`` becomes the field's default, or ``example``."""

    expects: str
    mend: str = "write a number such as {default}"
    example: Any = 1


def show(value: object) -> str:
    """A value as it may appear in a message: on one line, not long, in YAML's words."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, int | float):
        return str(value) if abs(value) < 1e30 or isinstance(value, float) else "a huge number"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def wrong_word(value: object, known: Iterable[str]) -> str:
    """The message for a value that is not one of the ``known`` words."""
    words = list(known)
    if isinstance(value, str):
        return f"unknown value {show(value)} ({did_you_mean(value[:60], words)})"
    # A bare no, off or ~ is not text in YAML; who writes it means the word none, where there is one.
    mend = "write none" if "none" in words and not value else f"write a word such as {words[0]}"
    expected = listed(words) if len(words) <= MANY else f"one of {len(words)} words"
    return f"expected {expected}, got {show(value)} ({mend})"


def listed(words: Iterable[str]) -> str:
    """``a, b or c``."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


@functools.cache
def leaves(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """The key paths of a model of models (``train.steps``) and their fields."""
    found: dict[str, FieldInfo] = {}
    for key, info in model.model_fields.items():
        inner = section(info)
        found |= {f"{key}.{k}": f for k, f in leaves(inner).items()} if inner else {key: info}
    return MappingProxyType(found)


def section(info: FieldInfo | None) -> type[BaseModel] | None:
    """The model below a field, if it is a section."""
    kind = info.annotation if info else None
    # In Python 3.10 dict[str, int] passes for a class.
    return kind if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel) else None
