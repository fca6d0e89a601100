"""The tables of learning rates: the best of every sweep, and what the default rule loses against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from ..arms.labels import label, ordered
from ..arms.rule import WITHIN
from ..page import words
from ..rows.rates import sweep_of
from ..rows.rows import Row
from .groups import sweeps

Rule = Callable[[str, str, str, float], float | None]
"""A learning rate for a suite, a task, an arm and what it trains (per cent of the parameters); None: it is silent."""


def learning_rates(rows: Iterable[Row], rule: Rule | None = None) -> str:
    """The best rate of every sweep by validation, whether it lies on an edge, and what the default rule would lose."""
    head = ["arm", "task", "budget", "data", "steps", "rates tried", "best", "on an edge", "validation", "score"]
    made = []
    found = sweeps(rows)
    place = {arm: i for i, arm in enumerate(ordered(line.arm for _, line in found))}
    for setting, line in sorted(found, key=lambda each: (each[0].task, place[each[1].arm], each[1].order, each[0])):
        sweep = sweep_of(found[setting, line])
        assert sweep is not None
        cells = [
            *(label(line.arm), setting.task, words.brief(line.budget, " %")),
            *(f"{setting.data_size:,}", f"{setting.steps:,}"),
            ", ".join(map(words.brief, sweep.rates)),
            words.brief(sweep.best),
            "yes" if sweep.on_edge else "no",
            words.number(sweep.validation[sweep.place], 1),
            words.number(sweep.score[sweep.place], 1),
        ]
        if rule is not None:
            rate = rule(setting.suite, setting.task, line.arm, trained(found[setting, line]))
            lost = None if rate is None else sweep.regret(rate)
            cells += [words.brief(rate), words.number(lost, 1, True)]
        made.append(cells)
    return words.table([*head, *(["rule", "points lost"] if rule is not None else [])], made, texts=2)


def trained(rows: list[Row]) -> float:
    """Per cent of the parameters: what an arm trains may be less than its budget, or have a budget of its own."""
    return math.fsum(row["fraction"] for row in rows) / len(rows)


def kept_by_the_rule(rows: Iterable[Row], rule: Rule) -> str:
    """In how many sweeps of our own arms the rule is as good as the best rate, to within ``WITHIN`` points."""
    lost = []
    for (setting, line), mine in sweeps(rows).items():
        rate, sweep = rule(setting.suite, setting.task, line.arm, trained(mine)), sweep_of(mine)
        assert sweep is not None
        points = None if rate is None else sweep.regret(rate)
        if points is not None:
            lost.append(points)
    kept = sum(points <= WITHIN for points in lost)
    worst = f"; at worst it loses {max(lost):.1f}" if lost else ""
    return (
        "The default rate (`Plan.learning_rate`, by mode, budget and width; a fifth of it for pairs) loses at most "
        f"{WITHIN:g} points of score against the best rate of the sweep in {kept} of "
        f"{words.counted(len(lost), 'sweep')}{worst}."
    )
