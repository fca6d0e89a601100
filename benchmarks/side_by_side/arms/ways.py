"""``Way``: how an arm trains, as data, and what its rows say of it; ``ready.py`` acts on it. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from guided_ft.system.files import Json

Options = tuple[tuple[str, Any], ...]
"""Keyword arguments, so that they can be compared and hashed."""


@dataclass(frozen=True)
class Way:
    """One way of training.

    ``mode`` says how what is trained is trained, ``method`` which scores chose it, ``strategy`` how it was chosen by
    them, ``kinds`` what could be chosen; empty where nothing is chosen by a map.
    """

    @property
    def resolved(self) -> Way:
        """The way with all that it takes from elsewhere filled in."""
        return self

    @property
    def is_located(self) -> bool:
        """Whether it chooses components, by a map or in place of one."""
        return False

    @property
    def own_mode(self) -> str:
        """The mode of this package that it trains in, whose default rate is its own; empty for ways of others."""
        return ""

    @property
    def form(self) -> str:
        """What sets it apart from rows and columns in full: ``low rank``, ``lora`` or ``freeze``."""
        return ""

    def about(self) -> Json:
        """What a row says of it: mode, method, strategy and kinds."""
        return {"mode": type(self).__name__.lower(), "method": None, "strategy": None, "kinds": []}

    def config(self) -> Json:
        """All that it is, as JSON data."""
        return {"way": type(self).__name__, **asdict(self.resolved)}


@dataclass(frozen=True)
class Untrained(Way):
    """The base model as it is."""


@dataclass(frozen=True)
class Whole(Way):
    """All weights, at once or, by a ``peer`` (``lisa``, ``hft``, ``badam``), in turn."""

    peer: str = ""

    def about(self) -> Json:
        return super().about() | {"mode": self.peer or "full"}


@dataclass(frozen=True)
class Mixed(Whole):
    """All weights, on rows of which a ``share`` is text that the base model sampled: the cheap answer to forgetting."""

    share: float = 0.1


@dataclass(frozen=True)
class Adapter(Way):
    """An adapter of PEFT: ``lora``, ``shira``, ``oft`` or ``ia3``."""

    kind: str
    modules: str | tuple[str, ...] = "all-linear"
    options: Options = ()

    @property
    def own_mode(self) -> str:
        return "lora" if self == Adapter("lora") else ""

    @property
    def form(self) -> str:
        return self.kind

    def about(self) -> Json:
        return super().about() | {"mode": self.kind}


@dataclass(frozen=True)
class Started(Way):
    """A LoRA whose start is computed from text: ``eva`` or ``corda``."""

    kind: str

    @property
    def form(self) -> str:
        return self.kind

    def about(self) -> Json:
        return super().about() | {"mode": self.kind}
