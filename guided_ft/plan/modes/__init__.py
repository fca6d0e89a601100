"""The ways of training a selection, one file each. What depends on the mode is asked of it and written nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import GuidedError, did_you_mean, pick
from .freeze import FreezeMode
from .lora import LoraMode
from .mode import ADAPTER as ADAPTER
from .mode import PACE as PACE
from .mode import WIDTH as WIDTH
from .mode import Chosen as Chosen
from .mode import Mode as Mode
from .slice import SliceMode
from .subspace import SubspaceMode
from .work import Work as Work

MODES: dict[str, type[Mode[Any]]] = {}
"""Every way of training, by name."""


def register(mode: type[Mode[Any]]) -> type[Mode[Any]]:
    """Enter a mode in the table. Raises GuidedError if its name is taken."""
    if mode.name in MODES:
        raise GuidedError(f"register: the mode {mode.name!r} is taken (choose another name)")
    MODES[mode.name] = mode
    return mode


for _mode in (SliceMode, FreezeMode, LoraMode, SubspaceMode):
    register(_mode)


def make_mode(name: str, rank: int | None = None, options: Mapping[str, object] | None = None) -> Mode[Any]:
    """A mode with its rank and options.

    Raises:
        GuidedError: for an unknown mode or option, or a rank that the mode does not take.
    """
    mode = pick(MODES, name, "mode")
    if rank is not None and (not mode.takes_rank() or rank < 1):
        raise GuidedError(f"rank: {rank} with mode {name!r} (modes {takers()} take one, from 1)")
    unknown = set(options or ()) - set(mode.options())
    if unknown:
        word = sorted(unknown)[0]
        mend = did_you_mean(word, mode.options()) if mode.options() else "it has none"
        raise GuidedError(f"mode_options: mode {name!r} has no option {word!r} ({mend})")
    return mode(**({"rank": rank} if mode.takes_rank() else {}), **(options or {}))


def misfits(name: str, asked: Mapping[str, object], usual: Mapping[str, object]) -> list[tuple[str, str]]:
    """What was asked of a map or a choice that a mode has no use for: which key, and why.

    Args:
        asked: ``method``, ``options``, ``kinds`` and ``strategy``.
        usual: their defaults, which ask for nothing.
    """
    mode = MODES[name]
    found: list[tuple[str, str]] = []
    given = {key: value for key, value in asked.items() if value != usual[key]}
    units = next(other for other, m in MODES.items() if m.takes_units())
    for key in ("method", "options", "kinds"):
        if key in given and not mode.takes_units():
            why = f"mode {name} takes {mode.title}, which no scorer of units finds (write mode {units} too)"
            found.append((key, why))
    if "strategy" in given and given["strategy"] not in mode.strategies():
        found.append(("strategy", f"mode {name} has no {given['strategy']} (write {', '.join(mode.strategies())})"))
    return found


def takers(word: str = "and") -> str:
    """The modes that take a rank, as a list in words."""
    *first, last = (repr(name) for name, mode in MODES.items() if mode.takes_rank())
    return f"{', '.join(first)} {word} {last}" if first else last
