"""``FRONTS.md``: arms compared by their fronts of score against forgetting, from the raw rows of the front suites."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from guided_ft.errors import GuidedError
from guided_ft.system.files import write_text

from ..arms.arms import ARMS
from ..arms.labels import colour, label, marker, ordered
from ..page import words
from ..page.drawing import drawing
from ..rows.rows import SHARES, Row, dedupe, read_rows
from .duels import Duel, fight
from .front import LIMITS, PRIMARY, Front, Fronts, Line, Place, fronts, mean, shared
from .goals import goals

SUITES = ("testbed-fronts", "smollm2-fronts")

_INTRODUCTION = f"""\
# Fronts: score against forgetting

Made by `python -m benchmarks.side_by_side fronts` from the raw rows; nothing here is typed by hand. Every rate of an
arm runs on every seed. The primary figure was fixed before the runs: test score at a forgetting of at most {PRIMARY}
nats, with the rate picked on validation examples and on the validation corpus (the encyclopedia; the testbed's own
text). Where every rate forgets more, the score is the base model's. n: tasks times seeds. p: exact or sampled sign-flip
permutation test over pairs of one task and seed, after Holm over the comparisons of a table. "elsewhere": the largest
rise of the loss on corpora that no rate was picked by, at the primary figure's rate. CPU time holds the map, and was
taken at different hours under different load: what a step costs is measured side by side in [STEP.md](STEP.md). The
goals were set before the runs, too; those of time and memory are in [STEP.md](STEP.md)."""


def write_front_report(results: Path, out: Path) -> list[Path]:
    """Write ``FRONTS.md`` and a plot per suite into ``out``; returns them, the page first.

    Raises:
        GuidedError: there are no rows of a front suite.
    """
    parts, written = [_INTRODUCTION], []
    for suite in SUITES:
        path = results / f"{suite}.jsonl"
        if not path.exists():
            continue
        rows = dedupe(read_rows(path))
        bases = {row["task"]: float(row["score"]) for row in rows if row["arm"] == "base"}
        found = fronts(rows, bases)
        if not found:
            continue
        plot = out / "plots" / f"{suite}.svg".replace("-", "_")
        _draw(rows, plot, suite)
        written.append(plot)
        parts += [f"## {suite.removesuffix('-fronts')}", f"![fronts of {suite}](plots/{plot.name})", _legend(found)]
        parts += [_precisions(rows)]
        for data_size in sorted({place.data_size for places in found.values() for place in places}, reverse=True):
            chosen = {
                line: {p: f for p, f in places.items() if p.data_size == data_size} for line, places in found.items()
            }
            chosen = {line: places for line, places in chosen.items() if places}
            fought = fight(chosen, _lines(chosen))
            parts += [f"### {data_size} examples", summary(chosen), duels(fought), goals(chosen, fought)]
            parts += [rewinding(chosen)]
        parts += [_by_task(found)]
    if not written:
        raise GuidedError(f"{results}: no rows of {' or '.join(SUITES)} (run one of them first)")
    page = out / "FRONTS.md"
    write_text(page, "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n")
    return [page, *written]


def _precisions(rows: list[Row]) -> str:
    """In which precision the rows of each task trained, by their share of the model where they differ. Old rows were
    float32."""
    shares: dict[str, dict[str, set[float]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        shares[row["task"]][row.get("precision", "float32")].add(row["budget"] or 100.0)
    told: dict[str, list[str]] = defaultdict(list)
    for task, by_precision in sorted(shares.items()):
        for precision, some in by_precision.items():
            which = f" ({', '.join(f'{share:g}' for share in sorted(some))} %)" if len(by_precision) > 1 else ""
            told[precision].append(words.escape(task) + which)
    return "Trained in " + "; ".join(f"{name}: {', '.join(some)}" for name, some in sorted(told.items())) + "."


def _legend(found: Collection[Line]) -> str:
    """What the arms are, by their labels; of those whose label says it all, or that are no longer listed, nothing."""
    arms = [ARMS[name] for name in ordered(arm for arm, _ in found) if name in ARMS]
    return "\n".join(f"- *{arm.label}*: {arm.help}" for arm in arms if arm.help != arm.label)


def _lines(found: Collection[Line]) -> list[Line]:
    order = ordered(arm for arm, _ in found)
    return sorted(found, key=lambda line: (order.index(line[0]), line[1] or 0.0))


def _name(line: Line) -> str:
    arm, budget = line
    return label(arm) + ("" if budget is None else f", {budget:g} %")


def summary(found: Fronts) -> str:
    """One line an arm: means over tasks and seeds."""
    full = found.get(("full", None), {})
    head = ["arm", "n", *(f"score at {limit:g}" for limit in LIMITS), "best score", "forgetting there", "elsewhere"]
    head += ["CPU time", "peak memory"]
    lines = []
    for line in _lines(found):
        places = found[line]
        some = list(places.values())
        cells = [_name(line), str(len(some))]
        cells += [words.number(mean(some, _score_within(limit)), 1) for limit in LIMITS]
        cells += [words.number(mean(some, lambda f: f.best["score"]), 1)]
        cells += [words.number(mean(some, lambda f: f.best["forgetting"]), 3, True)]
        cells += [words.number(mean(some, _elsewhere), 3, True)]
        cells += [words.brief(_relative(places, full, field), "x") for field in ("cpu_seconds", "peak_bytes")]
        lines.append(cells)
    return words.table(head, lines)


def rewinding(found: Fronts) -> str:
    """Score at the limits with and without shares of every run's change; empty where none was measured."""
    head = ["arm", "n", *(f"at {limit:g}{how}" for limit in LIMITS for how in ("", ", rewound"))]
    lines = []
    for line in _lines(found):
        pairs = [(front, front.rewound) for front in found[line].values()]
        both = [(front, more) for front, more in pairs if more is not None]
        if both:
            cells = [_name(line), str(len(both))]
            for limit in LIMITS:
                cells += [words.number(mean((pair[i] for pair in both), _score_within(limit)), 1) for i in (0, 1)]
            lines.append(cells)
    if not lines:
        return ""
    shares = ", ".join(f"{share:g}" for share in SHARES)
    about = f"Rewound: {shares} of each run's change are points of the front, too; rate and share are picked together."
    return about + "\n\n" + words.table(head, lines)


def _score_within(limit: float) -> Callable[[Front], float]:
    return lambda front: front.score_within(limit)


def _elsewhere(front: Front) -> float | None:
    row = front.within(PRIMARY)
    rises = [v for v in (row.get("forgetting_on") or {}).values() if v is not None] if row else []
    return max(rises, default=None)


def _relative(mine: dict[Place, Front], theirs: dict[Place, Front], field: str) -> float | None:
    """Geometric mean of a cost over another arm's, run for run in the same order of rates."""
    logs = [
        math.log(_median(mine[place], field) / _median(theirs[place], field))
        for place in shared(mine, theirs)
        if _median(mine[place], field) and _median(theirs[place], field)
    ]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _median(front: Front, field: str) -> float:
    values = sorted(float(row[field]) for row in front.rows)
    return values[len(values) // 2]


def duels(all_of_them: Sequence[Duel]) -> str:
    """Directions against every other arm, pair by pair of task and seed."""
    head = ["against", "n", f"score at {PRIMARY:g}", "95 %", "p", "forgetting at equal score", "theirs", "ratio", "p "]
    lines = [
        [
            f"{_name(duel.mine)} : {_name(duel.other)}",
            str(duel.pairs),
            words.number(duel.score, 1, True),
            words.between(duel.interval, 1),
            words.p_value(duel.score_p),
            words.number(duel.kept, 3, True),
            words.number(duel.theirs, 3, True),
            words.brief(duel.ratio, "x"),
            words.p_value(duel.kept_p),
        ]
        for duel in all_of_them
    ]
    return words.table(head, lines) if lines else ""


def _by_task(found: Fronts) -> str:
    head = ["task", "arm", "seeds", *(f"score at {limit:g}" for limit in LIMITS), "best score", "forgetting there"]
    lines = []
    for task, size in sorted({(place.task, place.data_size) for places in found.values() for place in places}):
        for line in _lines(found):
            some = [front for place, front in found[line].items() if (place.task, place.data_size) == (task, size)]
            if some:
                cells = [f"{task} x{size}", _name(line), str(len(some))]
                cells += [words.number(mean(some, _score_within(limit)), 1) for limit in LIMITS]
                cells += [words.number(mean(some, lambda f: f.best["score"]), 1)]
                lines.append([*cells, words.number(mean(some, lambda f: f.best["forgetting"]), 3, True)])
    return words.folded("Task by task", words.table(head, lines, texts=2))


def _draw(rows: list[Row], path: Path, suite: str) -> None:
    """A panel a task: each arm's mean over seeds at every rate, joined in the order of rates."""
    shown = [row for row in rows if row["phase"] == "front" and row["arm"] != "base" and row["forgetting"] is not None]
    largest = max(row["data_size"] for row in shown)
    tasks = sorted({row["task"] for row in shown})
    shown = [row for row in shown if row["data_size"] == largest]
    counts = Counter(row["budget"] for row in shown if row["budget"])
    common = max(counts, key=counts.__getitem__, default=None)
    with drawing(path, 3.4 * len(tasks) + 0.4, 3.9) as figure:
        plots = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for plot, task in zip(plots, tasks, strict=True):
            lines: dict[Line, list[Row]] = defaultdict(list)
            for row in shown:
                if row["task"] == task:
                    lines[row["arm"], row["budget"]].append(row)
            for line in _lines(lines):
                mine, (arm, budget), points = lines[line], line, []
                for rate in sorted({row["lr"] for row in mine}):
                    some = [row for row in mine if row["lr"] == rate]
                    points.append(tuple(sum(row[f] for row in some) / len(some) for f in ("forgetting", "score")))
                style = {"color": colour(arm), "marker": marker(arm), "markersize": 4, "linewidth": 1.1}
                style["linestyle"] = "-" if budget in (None, common) else "--"
                plot.plot([x for x, _ in points], [y for _, y in points], label=_name(line), **style)
            plot.set_xscale("symlog", linthresh=0.01, linscale=0.6)
            plot.axvline(PRIMARY, color="#999999", linewidth=0.7, linestyle=":")
            plot.set_title(task.replace("_", " "))
            plot.set_xlabel("forgetting (nats)")
        plots[0].set_ylabel("test score (0-100)")
        handles = {text: line for plot in plots for line, text in zip(*plot.get_legend_handles_labels(), strict=True)}
        # More names than that side by side would be cut off at the edges.
        columns = min(3 * len(tasks) // 2, len(handles))
        figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=columns)
        figure.suptitle(f"{suite.removesuffix('-fronts')}: {largest} examples", fontsize=9)
        figure.tight_layout(rect=(0, 0.04 + 0.05 * math.ceil(len(handles) / columns), 1, 1))
