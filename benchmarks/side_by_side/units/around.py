"""What a lower or a higher rate than the default one would have done: how much hangs on it. From the sweeps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from ..arms.labels import arm_of
from ..arms.rule import WITHIN, mode_of
from ..page import words
from ..rows.rates import Sweep, sweep_of
from ..rows.rows import Row
from .compare import located
from .groups import sweeps
from .rate_tables import Rule, trained

MULTIPLES = {"half": 0.5, "the rate": 1.0, "twice": 2.0}
"""Of the default rate. Few sweeps reach further on both sides."""

LEAST = 3
"""Sweeps below which nothing is shown."""


def table(rows: Iterable[Row], rule: Rule) -> str:
    """One line a kind of our own arms, over its sweeps that were tried on both sides of the default rate.

    Empty if there are too few.
    """
    found: dict[str, list[list[tuple[float, float]]]] = {}
    for (setting, line), mine in sweeps(rows).items():
        rate, sweep = rule(setting.suite, setting.task, line.arm, trained(mine)), sweep_of(mine)
        assert sweep is not None
        read = None if rate is None else [_lost_and_forgotten(sweep, rate * times) for times in MULTIPLES.values()]
        if read and None not in read:
            found.setdefault(_kind(line.arm), []).append(read)  # type: ignore[arg-type]
    head = ["arms", "sweeps", *(f"{what}: {name}" for what in ("points lost", "within", "nats") for name in MULTIPLES)]
    made = [_cells(kind, found[kind]) for kind in sorted(found) if len(found[kind]) >= LEAST]
    return words.table(head, made) if made else ""


def _lost_and_forgotten(sweep: Sweep, rate: float) -> tuple[float, float] | None:
    lost, forgotten = sweep.regret(rate), sweep.at(sweep.forgetting, rate)
    return None if lost is None or forgotten is None else (lost, forgotten)


def _kind(arm: str) -> str:
    mode = mode_of(arm)
    if mode != "slice":
        return {"lora": "LoRA", "freeze": "freeze"}[mode]
    return f"{arm_of(arm).way.form or 'slices'}, {'located' if located(arm) else 'controls'}"


def _cells(kind: str, sweeps: Sequence[Sequence[tuple[float, float]]]) -> list[str]:
    columns = list(zip(*sweeps, strict=True))
    lost, forgotten = ([[point[i] for point in column] for column in columns] for i in (0, 1))
    return [
        *(kind, str(len(sweeps))),
        *(words.number(math.fsum(points) / len(points), 1, True) for points in lost),
        *(str(sum(point <= WITHIN for point in points)) for points in lost),
        *(words.number(statistics.median(nats), 4, True) for nats in forgotten),
    ]
