"""A comparison in words: one table, and what it does not say."""

from __future__ import annotations

import statistics
import textwrap

from .comparison import Comparison, Point, Way
from .facts import Table, amount, gigabytes, is_nats, is_percent, is_share, lower_is_better, measured, share, signed
from .story import clean
from .verdict import chance


def table(found: Comparison) -> Table:
    """One row for each way: what it reaches without forgetting, what it reaches at all, and what it costs."""
    columns = [
        f"{found.noun}, forgetting <= {found.limit:g} (at rate)",
        f"best {found.noun} (at rate)",
        "forgetting there",
        "trained",
        "seconds",
        "memory",
        "file",
    ]
    rows = [("before", ["-", measured(found.metric, found.base["score"]), "0", *["-"] * 4])]
    return Table(columns, [*rows, *((way.label, _cells(found, way)) for way in found.ways)])


def _cells(found: Comparison, way: Way) -> list[str]:
    gentle, best = way.best(found.metric, found.limit), way.best(found.metric)
    ended = way.ended()
    cells = [_score(found, gentle), _score(found, best), "-" if best is None else signed(best.mean("forgetting"))]
    cells.append(share(way.trainable, found.base["parameters"]) if way.trainable else "-")
    if not ended:
        return [*cells, "-", "-", "-"]
    cells.append(_seconds([s for point in ended for s in point.seconds], way.localize_seconds))
    cells.append(gigabytes(max(peak for point in ended for peak in point.peak_bytes)))
    return [*cells, size(max(point.file_bytes for point in ended))]


def _score(found: Comparison, point: Point | None) -> str:
    if point is None:
        return "-"
    text = measured(found.metric, point.mean("score"))
    if len(point.score) > 1:
        text += f" [{min(point.score):.3g}, {max(point.score):.3g}]"
    return f"{text} ({point.rate:.3g})"


def _seconds(training: list[float], localizing: float) -> str:
    return f"{statistics.median(training):.0f}" + (f" + {localizing:.0f}" if localizing else "")


def size(count: int) -> str:
    """Bytes as ``538 MB`` (of 10^6 bytes)."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    return f"{value:.3g} {unit}" if value < 99.5 else f"{value:.0f} {unit}"


def every_rate(found: Comparison) -> Table:
    """One row for each way and rate."""
    rows = []
    for way in found.ways:
        for point in way.points:
            cells = [f"{point.rate:.3g}", *(["-"] * 4)]
            if point.seeds:
                scores = [measured(found.metric, point.mean(part)) for part in ("validation", "score")]
                cells[1:] = [*scores, signed(point.mean("forgetting")), f"{statistics.median(point.seconds):.1f}"]
            rows.append((way.label, cells))
    return Table(["way", "rate", f"{found.noun}, validation", f"{found.noun}, test", "forgetting", "seconds"], rows)


def setup(found: Comparison) -> list[tuple[str, str]]:
    """Everything that it takes to repeat the comparison or to doubt it."""
    counts = found.examples
    return [
        ("model", found.model),
        ("task", found.task["name"]),
        ("examples", ", ".join(f"{counts[part]:,} {words}" for part, words in _PARTS.items())),
        ("data hash", found.task["hash"]),
        ("trainer", found.trainer),
        ("steps", f"{found.steps:,}"),
        ("map", found.method),
        ("budget", found.budget),
        ("seeds", ", ".join(map(str, found.seeds))),
        ("general text", found.text),
        ("general loss before", f"{amount(found.base['loss'])} nats a token"),
        (
            "seconds",
            f"of training alone, the median of a way's runs, + its map; {found.seconds:,.0f} for this call",
        ),
        ("memory", "of the process while it trains, at most: libraries, base model and all"),
        ("machine", found.machine),
        ("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())),
    ]


_PARTS = {"train": "to train", "validation": "to pick rates on", "test": "to test"}


def remarks(found: Comparison) -> list[str]:
    """What the table does not say: how rates were picked, what n is, and what may not be concluded."""
    counts, first = found.examples, found.ways[0] if found.ways else None
    rates = len(first.points) if first else 0
    by_loss = all(point.validation_loss for way in found.ways for point in way.ended())
    ties = f" (ties: by {'their loss' if by_loss else 'less forgetting'})" if is_percent(found.metric) else ""
    lines = [
        f"{rates} learning rates for each way, {found.steps} steps each; rates are picked on {counts['validation']} "
        f"validation examples{ties} and scored on {counts['test']} others. "
        f"Forgetting: rise of the loss on general text ({found.text}), nats a token.",
        _n(found),
    ]
    ways = {way.name: way for way in found.ways}
    controls = [(ways[way.control], way) for way in found.ways if way.control in ways]
    lines += [_located(found, located, random) for located, random in controls]
    if not controls and any(way.localize_seconds for way in found.ways):
        lines.append("No random choice was trained beside the located one, so this does not show that the map helped.")
    for way in found.ways:
        best = way.best(found.metric)
        side = way.on_edge(best) if best is not None else ""
        if side:
            lines.append(f"{way.label}: its best rate is the {side} that was tried, so a wider sweep may do better.")
        failed = [f"{point.rate:.3g}" for point in way.points if point.failed]
        if failed:
            reason = next(text for point in way.points for text in point.failed)
            lines.append(f"{way.label}: no result at {', '.join(failed)} ({reason}).")
        if way.note:
            lines.append(f"{way.label}: {way.note}.")
    if not found.isolated:
        lines.append("All ways ran in one process, so memory is not that of each alone.")
    if found.quick:
        lines.append("A quick look: few steps, few examples. Leave out --quick for the comparison itself.")
    return lines


def _n(found: Comparison) -> str:
    n = len(found.seeds)
    if n == 1:
        return f"n = 1 seed ({found.seeds[0]}): a single seed carries no test; do not read small differences."
    return f"n = {n} seeds: means, with the lowest and the highest in brackets."


def _located(found: Comparison, own: Way, random: Way) -> str:
    """The located choice beside the random one of the same budget, each at its own rate."""
    pair = [way.best(found.metric, found.limit) for way in (own, random)]
    where = f"at a forgetting of at most {found.limit:g}"
    if None in pair:
        pair, where = [way.best(found.metric) for way in (own, random)], "at the best rate of each"
    if pair[0] is None or pair[1] is None:
        return f"{own.label} against random: not measured."
    sign = -1 if lower_is_better(found.metric) else 1
    seeds = [seed for seed in pair[0].seeds if seed in pair[1].seeds]
    mine, theirs = (dict(zip(point.seeds, point.score, strict=True)) for point in (pair[0], pair[1]))
    lead = [sign * (mine[seed] - theirs[seed]) for seed in seeds]
    gap = f"{statistics.fmean(lead):+.3g} {unit(found.metric)}".rstrip()
    text = f"{own.label} against random, of the same budget, {where}: {gap}"
    half = interval(found, pair[0], pair[1], lead)
    return f"{text} ({half}; n = {len(lead)} seed{'s' * (len(lead) != 1)})."


def unit(metric: str) -> str:
    """Of a difference; none for a metric of which only the name is known."""
    return "points" if is_percent(metric) else "nats" if is_nats(metric) else ""


T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 % for 1, 2, ... 9 degrees of freedom."""


def interval(found: Comparison, one: Point, other: Point, lead: list[float]) -> str:
    """The 95 % interval of a difference: over seeds where there are three or more, else by the test examples alone."""
    n = len(lead)
    if n >= 3:
        t = T_975[min(n - 2, len(T_975) - 1)]
        return f"95 %: +-{t * statistics.stdev(lead) / n**0.5:.3g}, over seeds"
    if is_share(found.metric):
        half = chance(one.mean("score"), other.mean("score"), found.examples["test"])
        return f"95 %: +-{half:.0f} by the {found.examples['test']} test examples alone"
    return "no interval from so few seeds"


def told(found: Comparison) -> str:
    """The comparison as text, for the terminal: the table, and what may be said about it."""
    made = table(found)
    widths = [max(len(row[1][i]) for row in made.rows) for i in range(len(made.columns))]
    heads = [textwrap.wrap(name, max(11, width)) for name, width in zip(made.columns, widths, strict=True)]
    widths = [max([width, *map(len, head)]) for width, head in zip(widths, heads, strict=True)]
    deep = max(map(len, heads))
    first = max(len(label) for label, _ in made.rows)
    lines = [f"{clean(found.name)}: {found.noun} against forgetting", ""]
    for i in range(deep):
        cells = [head[i - deep + len(head)] if i >= deep - len(head) else "" for head in heads]
        lines.append(_row("", first, cells, widths))
    lines += [_row(label, first, cells, widths) for label, cells in made.rows]
    lines.append("")
    for text in remarks(found):
        lines += textwrap.wrap(clean(text), 110, initial_indent="  ", subsequent_indent="    ")
    lines.append(f"  repeat  {clean(found.command)}")
    return "\n".join(lines)


def _row(label: str, first: int, cells: list[str], widths: list[int]) -> str:
    text = f"  {clean(label):<{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths, strict=True))
    return text.rstrip()
