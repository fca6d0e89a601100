"""``How``: how a choice was made, as it stands in its file. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import GuidedError
from ..system.files import Json


@dataclass(frozen=True, eq=False)
class How(Mapping[str, object]):
    """How a choice was made: None where a question does not arise, or nobody knows.

    It reads as the mapping that is saved, too, without what is None: ``how["budget"]``, ``how.get("seed")``.

    Args:
        method: of the map that a budget was spent on.
        strategy: how it was spent, a name of ``selection.strategies``.
        budget: as it was asked for, such as ``"2%"``.
        budget_parameters: the same in parameters.
        kinds: of components, those that could be chosen.
        seed: of what was drawn.
        whole: of a kind, all of a layer or nothing.
        first_layer: no lower layer could be chosen.
        within: of directions, the text of the selection whose modules alone could be chosen from.
        map: of directions, the digest of the map.
        text: what a person typed.
        operation: ``|``, ``&`` or ``-``, of two selections.
        of: how these two were made.
        more: what else its maker has to tell, JSON data by names of one's own.
    """

    method: str | None = None
    strategy: str | None = None
    budget: str | None = None
    budget_parameters: int | None = None
    kinds: tuple[str, ...] | None = None
    seed: int | None = None
    whole: bool | None = None
    first_layer: int | None = None
    within: str | None = None
    map: str | None = None
    text: str | None = None
    operation: str | None = None
    of: tuple[How, ...] | None = None
    more: Json = field(default_factory=dict)

    @classmethod
    def read(cls, data: Mapping[str, object]) -> How:
        """Read what ``to_dict`` writes. Raises GuidedError, with its name, for a value that cannot be meant."""
        if isinstance(data, cls):
            return data
        if not isinstance(data, Mapping):
            raise GuidedError(f"how: {data!r:.60} does not say how a choice was made (give a mapping, or How)")
        more = {name: value for name, value in data.items() if name not in _READ}
        return cls(**{name: _read(name, data[name]) for name in _READ if data.get(name) is not None}, more=more)

    def to_dict(self) -> Json:
        """As JSON data, by name: what is not None."""
        found = {name: getattr(self, name) for name in _READ}
        found["kinds"] = self.kinds and list(self.kinds)
        found["of"] = self.of and [each.to_dict() for each in self.of]
        return {name: value for name, value in found.items() if value is not None} | self.more

    def __getitem__(self, name: str) -> object:
        return self.to_dict()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())


_READ: dict[str, tuple[Any, Callable[[Any], object]]] = {
    **dict.fromkeys(("method", "strategy", "budget", "within", "map", "text", "operation"), (str | int | float, str)),
    **dict.fromkeys(("budget_parameters", "seed", "first_layer"), (int, int)),
    "whole": (bool, bool),
    "kinds": (list | tuple, lambda kinds: tuple(map(str, kinds))),
    "of": (list | tuple, lambda parts: tuple(map(How.read, parts))),
}
"""Of each name, which values can be meant, and what is made of them."""


def _read(name: str, value: object) -> Any:
    meant, made = _READ[name]
    if (isinstance(value, bool) and meant is not bool) or not isinstance(value, meant):
        raise GuidedError(f"how.{name}: {value!r:.60} does not say how a choice was made (select once more)")
    return made(value)
