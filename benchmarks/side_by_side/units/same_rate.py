"""Located against random at the same learning rate, and at rates that are picked in two ways: what a map does, and what
the picking does. From the sweeps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from ..arms.labels import PLACED, label, ordered
from ..page import words
from ..rows.rates import sweep_of
from ..rows.rows import Row
from .compare import located
from .groups import Setting

LEAST = 5
"""Settings below which nothing is shown: each is one seed."""


BEST, GENTLEST = "the best on validation", "the lowest within its error"
"""Rates that differ from arm to arm: what a sweep picks, and ``Sweep.gentlest``."""

COMPLETE = 4
"""Rates below which a sweep picks nothing."""

Rate = float | str


@dataclass(frozen=True)
class SameRate:
    """``arm`` minus ``control`` at one rate, setting by setting (task, budget, data size and steps).

    Args:
        rate: a learning rate, or how each arm's was picked.
        scores: differences in points.
        forgetting: differences in nats; infinite where only one of the two diverged.
    """

    arm: str
    control: str
    rate: Rate
    scores: tuple[float, ...]
    forgetting: tuple[float, ...]


def same_rate(rows: Iterable[Row]) -> list[SameRate]:
    """Compare every located arm with random choices, of all layers and placed as it is, rate by rate."""
    sweeps: dict[str, dict[Hashable, list[Row]]] = {}
    for row in rows:
        if row["phase"] == "sweep":
            setting = (Setting.of(row), row["budget"], row["seed"], row["weights"])
            sweeps.setdefault(row["arm"], {}).setdefault(setting, []).append(row)
    runs = {arm: _by_rate(mine) for arm, mine in sweeps.items()}
    found = []
    for arm in ordered(filter(located, runs)):
        for control in dict.fromkeys(("random", PLACED.get(arm, "random"))):
            for rate in sorted(runs[arm], key=lambda rate: (isinstance(rate, str), rate)):
                mine, theirs = runs[arm][rate], runs.get(control, {}).get(rate, {})
                shared = [setting for setting in mine if setting in theirs]
                if len(shared) >= LEAST:
                    pairs = [(mine[setting], theirs[setting]) for setting in shared]
                    scores = tuple(one["score"] - other["score"] for one, other in pairs)
                    found.append(SameRate(arm, control, rate, scores, tuple(map(_forgotten, pairs))))
    return found


def _by_rate(sweeps: dict[Hashable, list[Row]]) -> dict[Rate, dict[Hashable, Row]]:
    """The runs of an arm by rate and setting; those of complete sweeps by the ways of picking one, too."""
    found: dict[Rate, dict[Hashable, Row]] = {}
    for setting, rows in sweeps.items():
        runs: dict[Rate, Row] = {row["lr"]: row for row in rows}
        if len(runs) >= COMPLETE:
            sweep = sweep_of(rows)
            assert sweep is not None
            runs |= {BEST: runs[sweep.best], GENTLEST: runs[sweep.gentlest]}
        for rate, row in runs.items():
            found.setdefault(rate, {})[setting] = row
    return found


def _forgotten(pair: tuple[Row, Row]) -> float:
    one, other = (math.inf if row["forgetting"] is None else row["forgetting"] for row in pair)
    return 0.0 if one == other else one - other


def table(compared: Iterable[SameRate]) -> str:
    """One line a pair and rate."""
    head = ["arm", "against", "learning rate", "settings", "score (points, mean)", "higher : lower"]
    made = [
        [
            *(label(each.arm), label(each.control)),
            each.rate if isinstance(each.rate, str) else words.brief(each.rate),
            str(len(each.scores)),
            words.number(statistics.fmean(each.scores), 1, True),
            _sides(each.scores),
            words.number(statistics.median(each.forgetting), 4, True),
            _sides(each.forgetting),
        ]
        for each in compared
    ]
    return words.table([*head, "forgetting (nats, median)", "more : less"], made, texts=3)


def _sides(differences: tuple[float, ...]) -> str:
    return f"{sum(d > 0 for d in differences)} : {sum(d < 0 for d in differences)}"
