"""What the default recipe is meant to reach, and whether the rows show it: made from the runs, never typed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..arms.labels import label
from ..page import words
from ..rows.curves import seconds_to
from ..rows.statistics import paired
from .compare import METRICS, SeedDraws
from .groups import Groups, Line, Runs, Value, headline
from .tables import at_target, memory

DEFAULT = "guided"

MOST = 0.5
"""Per cent of the parameters that the default recipe may train."""

UNEQUAL = 1.2
"""Times the parameters from which on an arm of the same budget is said to train more."""


@dataclass(frozen=True)
class Finding:
    """What was seen, in words, and whether it is enough."""

    seen: str
    reached: bool


Lines = dict[Line, Runs]
Measure = Callable[[Lines, float], Finding | None]


@dataclass(frozen=True)
class Goal:
    """Something to reach on every task; ``measure`` gives None where runs are missing.

    Args:
        equal: an arm that is meant to train as much as the default does.
    """

    asked: str
    measure: Measure
    equal: str | None = None


def _runs(lines: Lines, arm: str, budget: float) -> Runs | None:
    runs = lines.get(Line(arm, budget)) or lines.get(Line(arm, None))
    return runs if runs is not None and runs.phase == "main" else None


def _pair(lines: Lines, budget: float, other: str, name: str) -> tuple[Runs, Runs] | tuple[None, None]:
    """The default's runs and those of another arm, as far as they can be compared (see ``Runs.partners``)."""
    mine, theirs = _runs(lines, DEFAULT, budget), _runs(lines, other, budget)
    if mine is None or theirs is None:
        return None, None
    return mine.beside(theirs, name), theirs.beside(mine, name)


def _means(lines: Lines, budget: float, other: str, metric: str) -> tuple[float, float] | None:
    """Means of the default and of another arm over the seeds that both have a value on."""
    mine, theirs = _pair(lines, budget, other, "weights")
    if mine is None or theirs is None:
        return None
    values = next(each for each in METRICS if each.name == metric).values
    return _paired(*values(mine, theirs))


def _paired(first: SeedDraws, second: SeedDraws) -> tuple[float, float] | None:
    pairs = paired(first, second).values()
    if not pairs:
        return None
    return tuple(math.fsum(math.fsum(pair[i]) / len(pair[i]) for pair in pairs) / len(pairs) for i in (0, 1))  # type: ignore[return-value]


def _score(other: str, less: float) -> Measure:
    def measure(lines: Lines, budget: float) -> Finding | None:
        found = _means(lines, budget, other, "score")
        return found and Finding(f"{found[0]:.1f} : {found[1]:.1f}", found[0] >= found[1] - less)

    return measure


def _forgetting(other: str, factor: float) -> Measure:
    def measure(lines: Lines, budget: float) -> Finding | None:
        found = _means(lines, budget, other, "forgetting_at_equal_score")
        # A loss that fell is nothing forgotten.
        return found and Finding(f"{found[0]:+.4f} : {found[1]:+.4f}", max(found[0], 0.0) <= factor * max(found[1], 0))

    return measure


def _ratio(other: str, most: float, make: Callable[[Lines], Value], absent: str = "") -> Measure:
    """The default's value over another arm's, seed by seed.

    Args:
        absent: what it means that the other arm has the value and the default has not; empty: that it is not known.
    """

    def measure(lines: Lines, budget: float) -> Finding | None:
        mine, theirs = _pair(lines, budget, other, "machine")
        if mine is None or theirs is None:
            return None
        value = make(lines)
        found = _paired(mine.draws(value), theirs.draws(value))
        if found is None:
            lacking = not mine.draws(value) and theirs.draws(value)
            return Finding(absent, False) if absent and lacking else None
        return Finding(f"{found[0] / found[1]:.2f}x", found[0] <= most * found[1])

    return measure


def _time(lines: Lines) -> Value:
    return at_target(lines, seconds_to)


GOALS = (
    Goal("score: full fine-tuning's - 1 or more", _score("full", 1.0)),
    Goal("score: LoRA's or more, at equal parameters", _score("lora", 0.0), "lora"),
    Goal("forgetting at equal score: full's or less (nats; a fall is none)", _forgetting("full", 1.0)),
    Goal("forgetting at equal score: half of LoRA's or less (nats; a fall is none)", _forgetting("lora", 0.5), "lora"),
    Goal(
        "time to full's score, localization included: 0.35x full's or less", _ratio("full", 0.35, _time, "never there")
    ),
    Goal(
        "time to full's score, localization included: 0.6x LoRA's or less",
        _ratio("lora", 0.6, _time, "never there"),
        "lora",
    ),
    Goal("peak memory of training: 0.5x full's or less", _ratio("full", 0.5, lambda lines: memory)),
)


def goals(tasks: Sequence[Groups]) -> str:
    """A table: every goal, and on every task what the default recipe did (first) and the other arm (second).

    In the setting where most was run, at a budget up to ``MOST``: see ``_budget``. A dash: not run.
    """
    settings = [headline(mine)[0] for mine in tasks]
    budgets = [_budget(mine[setting]) for mine, setting in zip(tasks, settings, strict=True)]
    head = ["asked", *(f"{s.task}, {words.brief(b, ' %')}" for s, b in zip(settings, budgets, strict=True))]
    placed = [(mine[setting], budget) for mine, setting, budget in zip(tasks, settings, budgets, strict=True)]
    made = [[goal.asked, *(_cell(goal, lines, budget) for lines, budget in placed)] for goal in GOALS]
    return words.table(head, made, texts=1 + len(settings))


def _cell(goal: Goal, lines: Lines, budget: float | None) -> str:
    found = None if budget is None else goal.measure(lines, budget)
    if budget is None or found is None:
        return words.DASH
    verdict = f"{'reached' if found.reached else 'missed'}: {found.seen}"
    mine, theirs = _runs(lines, DEFAULT, budget), goal.equal and _runs(lines, goal.equal, budget)
    if mine and theirs and theirs.rows[0]["trainable"] > UNEQUAL * mine.rows[0]["trainable"]:
        times = theirs.rows[0]["trainable"] / mine.rows[0]["trainable"]
        # The lowest rank of LoRA is more than a small budget buys.
        verdict += f" ({label(theirs.rows[0]['arm'])}: {times:.1f} times the parameters)"
    return verdict


def _budget(lines: Lines) -> float | None:
    """The largest budget at which the default has main runs, of those at which LoRA has too, if there are any."""
    found = [line.budget for line, runs in lines.items() if line.arm == DEFAULT and runs.phase == "main"]
    budgets = [budget for budget in found if budget is not None and budget <= MOST]
    return max(budgets, key=lambda budget: (_runs(lines, "lora", budget) is not None, budget), default=None)
