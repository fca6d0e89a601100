"""How long a comparison will take: from measured steps before it starts, and from its own cells as they end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from ..training import num_steps
from .arms import ARMS

if TYPE_CHECKING:
    from ...plan.plan import Plan
    from ..stages import Run
    from ..whole import Whole

TRIED = 3
"""Steps that are measured; the first one, which warms up, does not count."""


class Stopwatch:
    """Measures a few steps of the recipe's own plan, and works out from them what a cell of any other plan takes.

    Args:
        run: the base run, its map and plan made, without the rows that are held back.
        validation: how many these are.
        look: seconds that the stage ``before`` took: loading, answers to the test, text of its own.
    """

    def __init__(self, run: Run, validation: int, look: float) -> None:
        self.run, recipe = run, run.recipe
        rows, tests = run.rows
        self.rows = len(rows)
        own = ARMS["located"].plan(run, recipe.seed)
        model = own.attach(run.model()).train()
        task = run.task(rows[: TRIED * recipe.train.batch_size], recipe.train.batch_size)
        took = []
        for batch in task.batches(next(model.parameters()).device):
            began = time.perf_counter()
            task.loss(task.quantity(model, batch)).mean().backward()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            took.append(time.perf_counter() - began)
        self.unit = statistics.median(took[1:] or took) / sum(_passes(own))
        # The base is asked once for both parts; a cell reloads what it saved and asks that.
        self.look = look * (1 + validation / len(tests))

    def cell(self, plan: Plan | Whole) -> float:
        """Seconds of one cell, from loading the model to its scores."""
        train = self.run.recipe.train
        steps, below = num_steps(self.run.recipe, self.rows) * train.accumulate, _passes(plan)[0]
        passes = steps * sum(_passes(plan))
        cached = train.prefix_cache != "none" and below
        if cached:
            # From the second epoch on, what lies below the first trained layer is known.
            passes -= below * max(0.0, steps - self.rows / train.batch_size)
        return self.look + passes * self.unit


def _passes(plan: Plan | Whole) -> tuple[float, float, float]:
    """The cost of a step in forward passes: below the first trained layer, from there up with the gradients of
    activations, and the gradients of the trained weights."""
    anatomy = plan.anatomy if not hasattr(plan, "selection") else plan.selection.anatomy
    first = plan.first_layer / anatomy.num_layers
    return first, 2 * (1 - first), plan.num_parameters / anatomy.num_parameters


class Clock:
    """The time that is left, by what was expected of each arm and what its cells, or those of others, took.

    Args:
        expected: seconds of a cell, by arm.
    """

    def __init__(self, expected: dict[str, float]) -> None:
        self.expected = expected
        self.took: dict[str, list[float]] = {}

    def note(self, arm: str, seconds: float) -> None:
        self.took.setdefault(arm, []).append(seconds)

    def left(self, arms: Iterable[str]) -> float:
        """Seconds for cells of these arms."""
        pace = [s / self.expected[arm] for arm, took in self.took.items() for s in took if self.expected[arm]]
        factor = statistics.fmean(pace) if pace else 1.0
        return sum(
            statistics.fmean(self.took[arm]) if arm in self.took else factor * self.expected[arm] for arm in arms
        )


def minutes(seconds: float) -> str:
    """``under a minute``, ``about 7 minutes``, ``about 2.5 hours``."""
    if seconds < 60:
        return "under a minute"
    if seconds < 5400:
        return f"about {max(1, round(seconds / 60))} minute{'s' * (round(seconds / 60) > 1)}"
    return f"about {seconds / 3600:.1f} hours"
