"""Arms that localize: find the parts, spend the budget on them, and train only those."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from guided_ft.callback.callback import GuidedCallback
from guided_ft.plan.plan import Plan
from guided_ft.scorers.localize import localize
from guided_ft.scorers.self_text import self_text
from guided_ft.selection.budget import select
from guided_ft.selection.selection import Selection
from guided_ft.task.task import Task

from .setup import Prepare, Setup, Trial


def guided(
    method: str = "gradient",
    retain: str | None = "self",
    strategy: str = "top",
    *,
    mode: str = "slice",
    kinds: tuple[str, ...] = ("head", "neuron"),
    first: float = 0.0,
    budget: str | None = None,
    within: float | None = None,
    other_task: bool = False,
    needs_map: bool = True,
    examples: int | None = None,
    texts: int | None = 32,
    **options: Any,
) -> Prepare:
    """Localize, select, and train only that.

    Args:
        first: leave this share of the layers, from the bottom, alone.
        budget: one of its own, instead of the cell's.
        within: choose this percentage of the model, and train it as products of the rank that the cell's budget buys.
        other_task: take the map of the suite's next problem.
        needs_map: False for choices that do not look at the scores, which then cost nothing.
        examples: to localize with; None: the suite's.
        texts: that the model samples, where something is to be kept; None: as many as ``localize`` asks for.
    """

    def prepare(trial: Trial) -> Setup:
        cell = trial.cell
        problems = list(trial.lab.suite.problems)
        other = problems[(problems.index(cell.task) + 1) % len(problems)] if other_task else None
        scorer, kept, extra = (method, retain, options) if needs_map else ("random", None, {})
        scores, before = _map(trial, other, scorer, kept, kinds, (examples, texts), extra)
        wall, cpu = time.perf_counter(), time.process_time()

        def chosen(size: str | int) -> Selection:
            return select(
                scores,
                size,
                kinds,
                strategy,
                seed=1000 * cell.seed + cell.draw,
                whole=mode == "freeze",
                first_layer=round(first * scores.anatomy.num_layers),
            )

        if within is None:
            plan = Plan(chosen(budget or f"{cell.budget}%"), mode)
        else:
            plan = _low_rank(chosen, int(within / 100 * scores.anatomy.num_parameters), trial.parameters)
        callback = GuidedCallback(plan, learning_rate=None, prefix_cache="auto")
        spent = before[0] + time.perf_counter() - wall, before[1] + time.process_time() - cpu
        return Setup(trial.model, guided=callback, localize_seconds=spent[0], localize_cpu=spent[1])

    return prepare


def _low_rank(chosen: Callable[[int], Selection], size: int, parameters: int) -> Plan:
    """The highest rank at which a selection of ``size`` trains at most so many parameters; if even rank 1 trains more,
    rank 1 of the largest smaller selection that does not."""
    selection = chosen(size)
    one = Plan(selection, "slice", 1).num_parameters
    if one <= parameters:
        return max(
            (Plan(selection, "slice", rank) for rank in range(1, parameters // one + 1)),
            key=lambda plan: (plan.num_parameters <= parameters, plan.num_parameters),
        )
    low, high = parameters, size
    while high - low > size / 1000:
        middle = (low + high) // 2
        fits = Plan(chosen(middle), "slice", 1).num_parameters <= parameters
        low, high = (middle, high) if fits else (low, middle)
    return Plan(chosen(low), "slice", 1)


def _map(
    trial: Trial,
    other: str | None,
    scorer: str,
    retain: str | None,
    kinds: tuple[str, ...],
    counts: tuple[int | None, int | None],
    options: dict[str, Any],
) -> tuple[Any, tuple[float, float]]:
    """Return the map and the wall and CPU seconds that it took, when it was first wanted.

    Args:
        counts: of the task's examples and of the texts to keep.
    """
    cell = trial.cell
    key = cell.task, cell.seed, cell.data_size, other, scorer, retain, kinds, counts, tuple(sorted(options.items()))
    if key not in trial.lab.maps:
        wall, cpu = time.perf_counter(), time.process_time()
        task = trial.task(other, counts[0])
        kept: str | Task | None = retain
        if retain and counts[1]:
            kept = self_text(trial.model, num_examples=counts[1], seed=cell.seed, progress=False)
        scores = localize(trial.model, task, scorer, kept, kinds, seed=cell.seed, progress=False, **options)
        trial.lab.maps[key] = scores, (time.perf_counter() - wall, time.process_time() - cpu)
    return trial.lab.maps[key]
