"""Rows put together: the runs of one arm under one setting, at the learning rate that its sweep chose."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..rows.rates import best_rate
from ..rows.rows import Row
from ..rows.statistics import Spread, spread

HEADLINE = 0.3
"""Per cent of the parameters; of budgets with as many arms, the nearest is shown first (the default recipe stays below
0.5)."""

ALL_TASKS = "all tasks"

Value = Callable[[Row], "float | None"]


@dataclass(frozen=True, order=True)
class Setting:
    """What arms must share to be compared."""

    suite: str
    model: str
    task: str
    data_size: int
    steps: int

    @classmethod
    def of(cls, row: Row) -> Setting:
        return cls(row["suite"], row["model"], row["task"], row["data_size"], row["steps"])

    @property
    def subject(self) -> tuple[str, str, str]:
        """Suite, model and task: the section that it is shown in."""
        return self.suite, self.model, self.task


@dataclass(frozen=True)
class Line:
    """An arm at a budget (per cent of the parameters; None for arms without one)."""

    arm: str
    budget: float | None

    @property
    def order(self) -> tuple[float, str]:
        return (-1.0 if self.budget is None else self.budget, self.arm)


@dataclass(frozen=True)
class Runs:
    """The runs behind a line of a table, by seed and draw, all at one learning rate.

    ``phase`` is "sweep" where an arm was run only in its sweep: good to look at, not used in any comparison.
    """

    rate: float
    phase: str
    rows: tuple[Row, ...]

    def spread(self, value: Value) -> tuple[Spread | None, int]:
        """Mean and spread of what was measured, and how many runs there are."""
        return spread([v for v in map(value, self.rows) if v is not None]), len(self.rows)

    def draws(self, value: Value) -> dict[int, dict[int, float]]:
        """Values by seed and draw; runs without the value are left out."""
        found: dict[int, dict[int, float]] = {}
        for row in self.rows:
            measured = value(row)
            if measured is not None:
                found.setdefault(row["seed"], {})[row["draw"]] = measured
        return found

    def at_seed(self, seed: int) -> list[Row]:
        return [row for row in self.rows if row["seed"] == seed]

    @property
    def seeds(self) -> list[int]:
        return sorted({row["seed"] for row in self.rows})

    def partners(self, row: Row, name: str) -> list[Row]:
        """The runs of the same seed as ``row`` that are like it in a field.

        Scores are compared where the base model had the same ``weights``, and time on the same ``machine``.
        """
        return [each for each in self.at_seed(row["seed"]) if each[name] == row[name]]

    def beside(self, others: Runs, name: str) -> Runs:
        """The runs of this arm that have a partner among the others."""
        return replace(self, rows=tuple(row for row in self.rows if others.partners(row, name)))


Groups = dict[Setting, dict[Line, Runs]]


def group(rows: Iterable[Row]) -> Groups:
    """The runs of every setting and line.

    The frozen base is neither trained nor sized: it stands in every setting of its suite, model and task.
    """
    found: dict[Setting, dict[Line, list[Row]]] = {}
    bases: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        setting = Setting.of(row)
        if row["arm"] == "base":
            bases.setdefault(setting.subject, []).append(row)
        else:
            found.setdefault(setting, {}).setdefault(Line(row["arm"], row["budget"]), []).append(row)
    groups: Groups = {}
    for setting in sorted(found):
        lines = dict(found[setting])
        if setting.subject in bases:
            lines[Line("base", None)] = bases[setting.subject]
        groups[setting] = {line: _chosen(lines[line]) for line in sorted(lines, key=lambda each: each.order)}
    return groups


def pooled(groups: Groups) -> Groups:
    """The main runs of all tasks together, as one task: every seed of every task is a seed of its own.

    The three seeds of one task can hardly be told from chance; those of all tasks can. The rate is that of no run: each
    task has its own.
    """
    tasks = {task: i for i, task in enumerate(sorted({setting.task for setting in groups}))}
    found: dict[Setting, dict[Line, list[Row]]] = {}
    for setting, lines in groups.items():
        for line, runs in lines.items():
            if runs.phase == "main" and line.arm != "base":
                place = found.setdefault(replace(setting, task=ALL_TASKS), {}).setdefault(line, [])
                place += [row | {"seed": row["seed"] * len(tasks) + tasks[setting.task]} for row in runs.rows]
    return {
        setting: {
            line: Runs(math.nan, "main", tuple(lines[line])) for line in sorted(lines, key=lambda each: each.order)
        }
        for setting, lines in sorted(found.items())
    }


def sweeps(rows: Iterable[Row]) -> dict[tuple[Setting, Line], list[Row]]:
    """The rows of every learning-rate sweep."""
    found: dict[tuple[Setting, Line], list[Row]] = {}
    for row in rows:
        if row["phase"] == "sweep" and row["arm"] != "base":
            found.setdefault((Setting.of(row), Line(row["arm"], row["budget"])), []).append(row)
    return {place: found[place] for place in sorted(found, key=lambda each: (each[0], each[1].order))}


def _chosen(rows: list[Row]) -> Runs:
    """The main runs at the best rate by validation; without any, the sweep's."""
    sweep = [row for row in rows if row["phase"] == "sweep"]
    main = [row for row in rows if row["phase"] == "main"]
    of_sweep = best_rate(sweep)
    rate = of_sweep if any(row["lr"] == of_sweep for row in main) else best_rate(main or sweep)
    assert rate is not None
    kept = [row for row in main or sweep if row["lr"] == rate]
    return Runs(rate, "main" if main else "sweep", tuple(sorted(kept, key=lambda row: (row["seed"], row["draw"]))))


def headline(mine: Groups) -> tuple[Setting, float | None]:
    """The setting and the budget at which most arms were run; ties go to the larger setting and to the budget nearest
    ``HEADLINE``.

    Where to look is decided by what was run, never by what came out.
    """
    setting = max(mine, key=lambda s: (len({line.arm for line in mine[s]}), _count(mine[s]), s.data_size, s.steps))
    arms = Counter(line.budget for line in mine[setting] if line.budget is not None)
    return setting, max(arms, key=lambda budget: (arms[budget], -abs(math.log(budget / HEADLINE))), default=None)


def _count(lines: dict[Line, Runs]) -> int:
    return sum(len(runs.rows) for runs in lines.values())


def by_subject(groups: Groups) -> dict[tuple[str, str, str], Groups]:
    """The groups of every suite, model and task."""
    found: dict[tuple[str, str, str], Groups] = {}
    for setting, lines in groups.items():
        found.setdefault(setting.subject, {})[setting] = lines
    return found


def at_budget(lines: dict[Line, Runs], budget: float | None) -> dict[Line, Runs]:
    """The lines of one budget, and of the arms that have none."""
    return {line: runs for line, runs in lines.items() if line.budget in (None, budget)}
