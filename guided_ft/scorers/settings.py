"""``LocalizeOptions``: how a question is asked, with the one set of defaults there is. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import GuidedError


@dataclass(frozen=True)
class LocalizeOptions:
    """What ``localize`` is asked beside the model and the task, also by GuidedCallback, recipes and the command line.

    Args:
        method, retain, kinds, combine, weight, verify, seed: as in ``localize``.
        options: those of the method.
        examples: of the rows of a task, so many are localized with, where they are not a Task yet: a map of more is
            steadier, and takes as much longer.
        batch_size: of these, per forward pass, where no trainer says it.
    """

    method: str = "attribution"
    retain: Any = "self"
    kinds: tuple[str, ...] | None = None
    combine: Any = "ratio"
    weight: float | None = None
    verify: int = 0
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    examples: int = 64
    batch_size: int = 8

    def __post_init__(self) -> None:
        for name in ("method", "retain"):
            if name in self.options:
                raise GuidedError(f"options: {name!r} is no option of a method (give it as {name})")

    def arguments(self) -> dict[str, Any]:
        """What to call ``localize`` with."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NO_ARGUMENTS}
        return {**named, **self.options}

    def identity(self) -> dict[str, Any]:
        """All of it as JSON data; a Task stands for what it holds."""
        return {f.name: _identity(getattr(self, f.name)) for f in fields(self)}


_NO_ARGUMENTS = ("options", "examples", "batch_size")


def _identity(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    # A Task.
    return value.hash
