"""Arms that localize: find the parts, spend the budget on them, and train only those."""

from __future__ import annotations

import time
from collections.abc import Callable

from guided_ft.anatomy import Anatomy
from guided_ft.callback.callback import GuidedCallback
from guided_ft.plan.plan import Plan
from guided_ft.scorers.localize import localize
from guided_ft.scorers.self_text import self_text
from guided_ft.selection.budget import parse_budget, select
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.selection.selection import Selection
from guided_ft.task.task import Task

from ..arms.parts import Located, TopLayers
from .setup import Setup, Trial


def located(way: Located, trial: Trial) -> Setup:
    """Localize, select, and make ready to train only that."""
    cell = trial.cell
    problems = list(trial.lab.suite.problems)
    other = problems[(problems.index(cell.task) + 1) % len(problems)] if way.other_task else None
    scores, before = _map(way, trial, other)
    wall, cpu = time.perf_counter(), time.process_time()

    def chosen(size: str | int) -> Selection:
        return select(
            scores,
            size,
            way.kinds,
            way.strategy,
            seed=1000 * cell.seed + cell.draw,
            whole=way.mode == "freeze",
            first_layer=round(way.first * scores.anatomy.num_layers),
        )

    if way.within is None:
        plan = Plan(chosen(way.budget or cell.spent or ""), way.mode)
    else:
        plan = _low_rank(chosen, parse_budget(f"{way.within}%", scores.anatomy.num_parameters), trial.parameters)
    callback = GuidedCallback(plan, learning_rate=None, prefix_cache="auto")
    spent = before[0] + time.perf_counter() - wall, before[1] + time.process_time() - cpu
    return Setup(trial.model, guided=callback, localize_seconds=spent[0], localize_cpu=spent[1])


def top_layers(way: TopLayers, trial: Trial) -> Setup:
    """Train the last layers whole."""
    anatomy = Anatomy.of(trial.model)
    last = range(anatomy.num_layers - way.layers, anatomy.num_layers)
    selection = Selection.parse(" ".join(f"L{i}" for i in last), anatomy)
    return Setup(trial.model, guided=GuidedCallback(Plan(selection, "freeze"), learning_rate=None, prefix_cache="auto"))


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


def _map(way: Located, trial: Trial, other: str | None) -> tuple[ScoreMap, tuple[float, float]]:
    """The map of the task, or of an ``other`` one, and the wall and CPU seconds that it took when first wanted."""
    cell = trial.cell
    scorer, retain, options = (way.method, way.retain, way.options) if way.needs_map else ("random", None, ())
    counts = way.examples, way.texts
    key = cell.task, cell.seed, cell.data_size, other, scorer, retain, way.kinds, counts, tuple(sorted(options))
    if key not in trial.lab.maps:
        wall, cpu = time.perf_counter(), time.process_time()
        task = trial.task(other, way.examples)
        kept: str | Task | None = retain
        if retain and way.texts:
            kept = self_text(trial.model, num_examples=way.texts, seed=cell.seed, progress=False)
        scores = localize(trial.model, task, scorer, kept, way.kinds, seed=cell.seed, progress=False, **dict(options))
        trial.lab.maps[key] = scores, (time.perf_counter() - wall, time.process_time() - cpu)
    return trial.lab.maps[key]
