"""The catalogue of scorers. Imports no torch: a scorer's module is loaded when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..anatomy.component import KINDS
from ..errors import GuidedError, pick


@dataclass(frozen=True)
class Method:
    """One entry of the catalogue.

    Args:
        function: the scorer, or ``module:name`` of it in this room. Either a function, called as ``scorer(model,
            anatomy, task, *, kinds, progress, **options)``, which returns a ScoreMap; or a ``Recorder`` class, called
            as ``scorer(anatomy, kinds, **options)``, which shares its passes with others.
        help: one line for ``--help`` and reports.
        needs_data: False if the scores do not depend on the task; such a method has no two-sided form.
        kinds: what it can score.
        against: it compares the task with other sets, its option ``against``, and has no two-sided form beside it.
    """

    function: str | Callable[..., Any]
    help: str
    needs_data: bool = True
    kinds: tuple[str, ...] = KINDS
    against: bool = False

    def load(self) -> Callable[..., Any]:
        if callable(self.function):
            return self.function
        module, name = self.function.split(":")
        return getattr(importlib.import_module(f"{__package__}.{module}"), name)


CATALOGUE: dict[str, Method] = {
    "attribution": Method("attribution:Attribution", "gradient x activation, all components in one pass"),
    "gradient": Method("gradient:Gradient", "squared gradients of a component's weights"),
    "ablation": Method("ablation:ablation", "exact effect of removing each component (slow)"),
    "magnitude": Method("magnitude:magnitude", "size of a component's weights", needs_data=False),
    "random": Method("random:random", "seeded noise: the control", needs_data=False),
}


def register(
    name: str,
    function: Callable[..., Any],
    help: str = "",
    *,
    needs_data: bool = True,
    kinds: tuple[str, ...] = KINDS,
    against: bool = False,
) -> None:
    """Add a scorer of your own, a function or a Recorder class, under a new name.

    Raises GuidedError if the name is taken.
    """
    if name in CATALOGUE:
        raise GuidedError(f"register: the name {name!r} is taken (choose another)")
    CATALOGUE[name] = Method(function, help, needs_data, tuple(kinds), against)


def find(name: str) -> Method:
    """Look a method up; an unknown one is a GuidedError with the nearest name."""
    return pick(CATALOGUE, name, "method")
