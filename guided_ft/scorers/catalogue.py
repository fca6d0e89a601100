"""The catalogue of scorers. Imports no torch: a scorer's module is loaded when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import GuidedError, pick


@dataclass(frozen=True)
class Method:
    """One entry of the catalogue.

    Args:
        function: the scorer, or ``module:name`` of it. Called as ``scorer(model, anatomy, task, *, kinds, progress,
            **options)``; returns a ScoreMap.
        help: one line for ``--help`` and reports.
        needs_data: False if the scores do not depend on the task; such a method has no two-sided form.
    """

    function: str | Callable[..., Any]
    help: str
    needs_data: bool = True

    def load(self) -> Callable[..., Any]:
        if callable(self.function):
            return self.function
        module, name = self.function.split(":")
        return getattr(importlib.import_module(module), name)


CATALOGUE: dict[str, Method] = {
    "attribution": Method(
        "guided_ft.scorers.attribution:attribution", "gradient x activation, all components in one pass"
    ),
    "gradient": Method("guided_ft.scorers.gradient:gradient", "squared gradients of a component's weights"),
    "ablation": Method("guided_ft.scorers.ablation:ablation", "exact effect of removing each component (slow)"),
    "magnitude": Method("guided_ft.scorers.magnitude:magnitude", "size of a component's weights", needs_data=False),
    "random": Method("guided_ft.scorers.random:random", "seeded noise: the control", needs_data=False),
}


def register(name: str, function: Callable[..., Any], help: str = "", *, needs_data: bool = True) -> None:
    """Add a scorer of your own under a new name. Raises GuidedError if the name is taken."""
    if name in CATALOGUE:
        raise GuidedError(f"register: the name {name!r} is taken (choose another)")
    CATALOGUE[name] = Method(function, help, needs_data)


def find(name: str) -> Method:
    """Look a method up; an unknown one is a GuidedError with the nearest name."""
    return pick(CATALOGUE, name, "method")
