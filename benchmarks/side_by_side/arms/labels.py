"""How arms are called and drawn, also those of rows whose arm is no longer listed. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .arm import Arm
from .arms import ARMS
from .parts import Located
from .ways import Way

CONTROLS = tuple(name for name, arm in ARMS.items() if arm.control)
"""Choices of the same size that a located one must beat to have been worth the locating."""

PLACED = {name: arm.placed for name, arm in ARMS.items() if arm.placed}
"""Arms, and the random choice that is placed as they are."""

_MARKERS = "osD^v<>PXph*d"


def family(name: str) -> str:
    """The name of an arm up to its first colon."""
    return name.split(":")[0]


def arm_of(name: str) -> Arm:
    """The arm of a name; one that is not listed is like the first of its family, or trains in a way of its own."""
    if name in ARMS:
        return ARMS[name]
    first, *rest = name.split(":")
    kin = ARMS.get(first) or Arm(first, Located() if first == "guided" else Way(), {}, "", "#444444")
    return replace(kin, label=", ".join([kin.label, *(part.replace("-", " ") for part in rest)]), placed="", colour="")


def label(name: str) -> str:
    return arm_of(name).label


def ordered(names: Iterable[str]) -> list[str]:
    """Arms in the order of ``ARMS``; one that is not listed comes after the listed ones of its family."""
    known = list(ARMS)

    def place(name: str) -> tuple[int, bool, str]:
        if name in ARMS:
            return known.index(name), False, name
        kin = [i for i, other in enumerate(known) if family(other) == family(name)]
        return max(kin, default=len(known)), True, name

    return sorted(set(names), key=place)


def colour(name: str) -> str:
    return arm_of(name).colour or arm_of(family(name)).colour or "#444444"


def marker(name: str) -> str:
    """A shape that tells the arms of one family apart."""
    kin = [other for other in ARMS if family(other) == family(name)]
    # Controls share a colour, so that they need shapes of their own.
    kin = list(CONTROLS) if name in CONTROLS else kin
    place = kin.index(name) if name in kin else len(kin) + sum(map(ord, name))
    return _MARKERS[place % len(_MARKERS)]
