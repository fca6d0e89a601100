"""The tables of the benchmark, made from rows alone: quality, cost, what stands behind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from ..arms.arms import ARMS
from ..arms.labels import label, ordered
from ..page import words
from ..rows.curves import clock, forgetting_at, score_by, seconds_to
from ..rows.rows import Row, key
from .groups import Line, Runs, Setting, Value

TOLERANCE = 1.0
"""Points below full fine-tuning's last score that count as having reached it: about the noise of the held-out part."""


def full_target(lines: dict[Line, Runs]) -> Callable[[Row], float | None]:
    """The score that a run is timed to: full fine-tuning's last one on the same seed, less ``TOLERANCE``."""
    full = lines.get(Line("full", None))

    def target(row: Row) -> float | None:
        ends = [r["curve"][-1]["score"] for r in (full.partners(row, "weights") if full else ()) if r["curve"]]
        return sum(ends) / len(ends) - TOLERANCE if ends else None

    return target


def at_target(lines: dict[Line, Runs], read: Callable[[Row, float], float | None]) -> Value:
    """A value read off the curve where a run reaches full fine-tuning's score."""
    target = full_target(lines)

    def value(row: Row) -> float | None:
        score = target(row)
        return None if score is None else read(row, score)

    return value


def relative(lines: dict[Line, Runs], value: Value) -> Value:
    """A value over full fine-tuning's on the same seed and the same machine; None where there is none."""
    full = lines.get(Line("full", None))

    def ratio(row: Row) -> float | None:
        theirs = [v for v in map(value, full.partners(row, "machine") if full else ()) if v]
        mine = value(row)
        return None if mine is None or not theirs else mine * len(theirs) / math.fsum(theirs)

    return ratio


def field(name: str) -> Value:
    return lambda row: row[name]


def total_seconds(row: Row) -> float | None:
    """What the whole run took (see ``clock``)."""
    return clock(row)[-1] if row["curve"] else None


def memory(row: Row) -> float | None:
    """Peak bytes over what the process held before there was a model to train; None where that is not known."""
    return row["peak_bytes"] - row["resident_bytes"] if "resident_bytes" in row else None


def by_default(lines: dict[Line, Runs], budget: float | None) -> Value:
    """The score that a run has by the time at which the default recipe's run of the same seed is over."""
    default = lines.get(Line("guided", budget))

    def value(row: Row) -> float | None:
        ends = [end for r in (default.partners(row, "machine") if default else ()) if (end := total_seconds(r))]
        return score_by(row, math.fsum(ends) / len(ends)) if ends else None

    return value


def _skills(row: Row) -> float | None:
    lost = row["old_skills"], row["base_old_skills"]
    return None if None in lost else lost[0] - lost[1]


def in_order(lines: dict[Line, Runs]) -> list[Line]:
    """Lines by arm, in the order of the legend, then by budget."""
    place = {arm: i for i, arm in enumerate(ordered(line.arm for line in lines))}
    return sorted(lines, key=lambda line: (place[line.arm], line.order))


def quality(lines: dict[Line, Runs]) -> str:
    """Score and retention, one line an arm; forgetting at the score that full fine-tuning ends with too."""
    head = ("arm", "budget", "learning rate", "runs", "score", "forgetting (nats)", "at full's score (nats)")
    equal = at_target(lines, forgetting_at)
    made = []
    for line in in_order(lines):
        runs = lines[line]
        at_score = words.DASH if line.arm == "base" else words.plus_minus(runs.spread(equal), 4, True)
        made.append(
            [
                *_name(line, runs),
                words.plus_minus(runs.spread(field("score")), 1),
                words.plus_minus(runs.spread(field("forgetting")), 4, True),
                at_score,
                words.plus_minus(runs.spread(field("kl")), 4),
                words.plus_minus(runs.spread(_skills), 1, True),
            ]
        )
    return words.table([*head, "KL (nats)", "old skills (points)"], made)


def cost(lines: dict[Line, Runs], budget: float | None) -> str:
    """What an arm costs relative to full fine-tuning's run of the same seed, and its score by the time at which the
    default recipe is over; the base costs nothing and is left out."""
    ratios: tuple[tuple[str, Value], ...] = (
        ("time to full's score", at_target(lines, seconds_to)),
        ("time", total_seconds),
        ("memory", memory),
    )
    made = []
    for line in in_order(lines):
        if line.arm == "base":
            continue
        runs = lines[line]
        cells = [words.plus_minus(runs.spread(relative(lines, value)), 2) for _, value in ratios]
        cells.append(words.plus_minus(runs.spread(by_default(lines, budget)), 1))
        adapter, _ = runs.spread(field("adapter_bytes"))
        share, _ = runs.spread(field("fraction"))
        made.append(
            [
                label(line.arm),
                *cells,
                words.brief(share.mean if share else None, " %"),
                words.size(adapter.mean) if adapter else words.DASH,
            ]
        )
    return words.table(
        ["arm", *(name for name, _ in ratios), "score at the default's time", "trained", "adapter"], made
    )


def _name(line: Line, runs: Runs) -> list[str]:
    count = f"{len(runs.rows)}{' (sweep)' * (runs.phase == 'sweep' and line.arm != 'base')}"
    rate = words.DASH if line.arm == "base" else words.brief(runs.rate)
    return [label(line.arm), words.brief(line.budget, " %"), rate, count]


def behind(rows: Sequence[Row], written: int, refused: Sequence[Row] = ()) -> str:
    """How many rows stand behind a suite, of which arms, machines and versions.

    Args:
        written: how many rows were written, repeats included.
        refused: runs that could not be made: the fields of a run and the ``reason``.
    """
    counts = Counter((row["model"], row["task"], row["phase"]) for row in rows)
    lines = []
    for model, task in sorted({(row["model"], row["task"]) for row in rows}):
        mine = [row for row in rows if (row["model"], row["task"]) == (model, task)]
        lines.append(
            [
                *(model, task, f"{counts[model, task, 'sweep']:,}", f"{counts[model, task, 'main']:,}"),
                *(str(len({row[name] for row in mine})) for name in ("arm", "seed", "data_size", "steps")),
            ]
        )
    head = ["model", "task", "sweep rows", "main rows", "arms", "seeds", "data sizes", "numbers of steps"]
    absent = [label(arm) for arm in ARMS if arm not in {row["arm"] for row in rows}]
    notes = [
        f"{words.counted(len(rows), 'run')}; {words.counted(written - len(rows), 'row')} replaced by a later one.",
        f"Machines: {_counted(rows, 'machine')}.",
        f"Weights of the base model: {_counted(rows, 'weights')}.",
        f"Versions: {'; '.join(sorted({_versions(row) for row in rows}))}.",
        f"No rows: {'; '.join(absent) or 'none missing'}.",
    ]
    for arm in ordered({row["arm"] for row in rows}):
        found = {row["configuration"] for row in rows if row["arm"] == arm and "configuration" in row}
        if len(found) > 1:
            notes.append(f"{label(arm)}: rows of {len(found)} configurations, which are not the same arm.")
    done = {key(row) for row in rows}
    reasons = Counter((cell["arm"], cell["reason"]) for cell in refused if key(cell) not in done)
    for (arm, reason), count in sorted(reasons.items()):
        notes.append(f"Refused: {label(arm)}, {words.counted(count, 'run')}: {words.escape(reason)}.")
    return "\n\n".join([words.table(head, lines, texts=2), "\n".join(f"- {note}" for note in notes)])


def _counted(rows: Sequence[Row], name: str) -> str:
    counts = Counter(row[name] for row in rows)
    return "; ".join(f"{words.escape(value)} ({words.counted(counts[value], 'run')})" for value in sorted(counts))


def _versions(row: Row) -> str:
    return ", ".join(words.escape(f"{name} {version}") for name, version in sorted(row["versions"].items()))


def described(setting: Setting, budget: float | None) -> str:
    size = f"{words.counted(setting.data_size, 'example')}, {words.counted(setting.steps, 'step')}"
    return (
        size if budget is None else f"{size}, {words.brief(budget, ' %')} of the parameters where an arm has a budget"
    )
