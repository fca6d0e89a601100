"""``Method``: one scorer as the catalogue has it. Imports no torch: a scorer's module is loaded when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..anatomy.component import KINDS


@dataclass(frozen=True)
class Method:
    """One entry of the catalogue.

    Args:
        function: the scorer, or ``module:name`` of it among the methods. Either a function, called as ``scorer(model,
            anatomy, task, *, kinds, progress, **options)``, which returns a ScoreMap; or a ``Recorder`` class, called
            as ``scorer(anatomy, kinds, **options)``, which shares its passes with others.
        help: one line for ``--help`` and reports.
        needs_data: False if the scores do not depend on the task; such a method has no two-sided form.
        kinds: what it can score.
        compares: it compares the task with the retained set or sets itself, its option ``retain``, and has no two-sided
            form beside it.
        cost: of the default options, in forward (F) and backward (B) passes over the task, and as many over what is
            retained if the map is two-sided; ``weights too``: gradients of the weights are made and held.
        when: what it is for, in a few words.
        own_sets: a task of preferences is both sets by itself, so that ``retain`` may be left out.
    """

    function: str | Callable[..., Any]
    help: str
    needs_data: bool = True
    kinds: tuple[str, ...] = KINDS
    compares: bool = False
    cost: str = ""
    when: str = ""
    own_sets: bool = False

    def load(self) -> Callable[..., Any]:
        if callable(self.function):
            return self.function
        module, name = self.function.split(":")
        return getattr(importlib.import_module(f"{__package__}.methods.{module}"), name)
