"""Located against random at the same learning rate, from the sweeps: what a map does before a rate is chosen for it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from . import words
from .compare import PLACED, located
from .groups import Setting
from .labels import label, ordered
from .rows import Row

LEAST = 5
"""Settings below which nothing is shown: each is one seed."""


@dataclass(frozen=True)
class SameRate:
    """``arm`` minus ``control`` at one rate, setting by setting (task, budget, data size and steps).

    Args:
        scores: differences in points.
        forgetting: differences in nats; infinite where only one of the two diverged.
    """

    arm: str
    control: str
    rate: float
    scores: tuple[float, ...]
    forgetting: tuple[float, ...]


def same_rate(rows: Iterable[Row]) -> list[SameRate]:
    """Compare every located arm with random choices, of all layers and placed as it is, rate by rate."""
    runs: dict[tuple[str, float], dict[tuple[object, ...], Row]] = {}
    for row in rows:
        if row["phase"] == "sweep":
            setting = (Setting.of(row), row["budget"], row["seed"], row["weights"])
            runs.setdefault((row["arm"], row["lr"]), {})[setting] = row
    found = []
    for arm in ordered(arm for arm, _ in runs if located(arm)):
        for control in dict.fromkeys(("random", PLACED.get(arm, "random"))):
            for rate in sorted(rate for other, rate in runs if other == arm):
                mine, theirs = runs[arm, rate], runs.get((control, rate), {})
                shared = [setting for setting in mine if setting in theirs]
                if len(shared) >= LEAST:
                    pairs = [(mine[setting], theirs[setting]) for setting in shared]
                    scores = tuple(one["score"] - other["score"] for one, other in pairs)
                    found.append(SameRate(arm, control, rate, scores, tuple(map(_forgotten, pairs))))
    return found


def _forgotten(pair: tuple[Row, Row]) -> float:
    one, other = (math.inf if row["forgetting"] is None else row["forgetting"] for row in pair)
    return 0.0 if one == other else one - other


def table(compared: Iterable[SameRate]) -> str:
    """One line a pair and rate."""
    head = ["arm", "against", "learning rate", "settings", "score (points, mean)", "higher : lower"]
    made = [
        [
            *(label(each.arm), label(each.control), words.brief(each.rate), str(len(each.scores))),
            words.number(statistics.fmean(each.scores), 1, True),
            _sides(each.scores),
            words.number(statistics.median(each.forgetting), 4, True),
            _sides(each.forgetting),
        ]
        for each in compared
    ]
    return words.table([*head, "forgetting (nats, median)", "more : less"], made, texts=2)


def _sides(differences: tuple[float, ...]) -> str:
    return f"{sum(d > 0 for d in differences)} : {sum(d < 0 for d in differences)}"
