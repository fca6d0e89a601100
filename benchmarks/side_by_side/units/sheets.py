"""Everything, too long for a page, as CSV: one line an arm, budget and setting, and one line a comparison."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from ..rows.curves import best_score, forgetting_at, seconds_to
from .compare import Comparison
from .duels import sorted_by_arm
from .groups import Groups, Value
from .tables import at_target, field, in_order

_MEASURED: tuple[str, ...] = (
    "score",
    "validation",
    "forgetting",
    "kl",
    "old_skills",
    "base_old_skills",
    "seconds",
    "localize_seconds",
)
_MEASURED += ("cpu_seconds", "step_seconds", "peak_bytes", "trainable", "fraction", "adapter_bytes")


def lines_sheet(groups: Groups) -> str:
    """Mean, sample standard deviation and number of values of all that was measured, per setting, arm and budget."""
    names = [*_MEASURED, "best_on_the_way", "forgetting_at_full_score", "seconds_to_full_score"]
    head = ["suite", "model", "task", "data_size", "steps", "arm", "budget", "lr", "phase", "runs", "seeds"]
    made = []
    for setting, lines in groups.items():
        derived = (best_score, at_target(lines, forgetting_at), at_target(lines, seconds_to))
        values: list[Value] = [*map(field, _MEASURED), *derived]
        for line in in_order(lines):
            runs = lines[line]
            cells: list[Any] = [*setting.subject, setting.data_size, setting.steps, line.arm, line.budget, runs.rate]
            cells += [runs.phase, len(runs.rows), len(runs.seeds)]
            for value in values:
                found, _ = runs.spread(value)
                cells += [found.mean, found.deviation, found.runs] if found else [None, None, 0]
            made.append(cells)
    return _csv([*head, *(f"{name}{part}" for name in names for part in ("", "_sd", "_n"))], made)


def comparisons_sheet(comparisons: Sequence[Comparison]) -> str:
    """Every comparison with its interval, p values, effect size and verdict."""
    head = ["suite", "model", "task", "data_size", "steps", "budget", "arm", "control", "metric", "verdict", "seeds"]
    head += ["pairs", "difference", "low", "high", "p", "p_holm", "least_p", "d_z"]
    made = [
        [
            *(*each.setting.subject, each.setting.data_size, each.setting.steps, each.line.budget, each.line.arm),
            *(each.control, each.metric.name, each.verdict, each.seeds, each.pairs, each.difference),
            *(each.interval or (None, None)),
            *(each.p, each.adjusted, each.least, each.effect),
        ]
        for each in sorted_by_arm(comparisons)
    ]
    return _csv(head, made)


def _csv(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Floats with six figures: more would be noise, and differ between machines."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for line in lines:
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in line])
    return out.getvalue()
