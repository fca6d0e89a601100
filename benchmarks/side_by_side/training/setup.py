"""``Trial`` and ``Setup``: what an arm is given, and what it hands to the trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from guided_ft.callback.callback import GuidedCallback
from guided_ft.selection.budget import parse_budget
from guided_ft.task.given import Row

from ..suites.cell import Cell
from ..suites.suite import Lab


@dataclass
class Trial:
    """A run that is about to be made ready: the cell, a fresh base model, and its data."""

    lab: Lab
    cell: Cell
    model: Any
    rows: list[Row]

    def task(self, problem: str | None = None, examples: int | None = None) -> Any:
        """The first training examples, to localize with; or those of another problem. None: as many as the suite's."""
        suite = self.lab.suite
        rows = self.rows
        if problem is not None:
            rows = suite.problems[problem].rows(self.cell.data_size, self.cell.seed)[0]
        return self.lab.task(rows[: examples or suite.examples], problem or self.cell.task)

    @property
    def parameters(self) -> int:
        """What the budget buys."""
        assert self.cell.spent is not None
        return parse_budget(self.cell.spent, sum(p.numel() for p in self.model.parameters()))


@dataclass
class Setup:
    """What the trainer is handed.

    Args:
        guided: its callback trims the step to the labelled tokens itself.
        optimizer: makes one from the model and the rate; None: the trainer's AdamW.
        localize_seconds, localize_cpu: what finding the parts took.
        rows: to train on instead of the trial's.
        rewinds: whether its adapter is the whole change, so that a share of it can be looked at.
    """

    model: Any
    callbacks: list[Any] = field(default_factory=list)
    guided: GuidedCallback | None = None
    optimizer: Callable[[Any, float], Any] | None = None
    localize_seconds: float = 0.0
    localize_cpu: float = 0.0
    rows: list[Row] | None = None
    rewinds: bool = True
