"""``recipes/RESULTS.md``: what each recipe did when it was run in full, failures and all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from guided_ft.recipe.recipe import shipped
from guided_ft.recipe.trl_fields import TRAINERS
from guided_ft.report.facts import amount, gigabytes, measured, metrics, share, signed, words
from guided_ft.report.record import RunRecord, checked

from .full import seconds

Row = dict[str, Any]

HEAD = """\
# Recipes, run in full

Each shipped recipe, run once from beginning to end. *Random* is a random choice of the same size, trained and measured
in the same way; *general loss* is the rise of the loss (nats per token) on text that the recipe keeps, and *KL* that to
the base, each with that of the random choice in brackets. Times are CPU time of the whole run, the control included.
There is one seed of each: [benchmarks](../benchmarks/README.md) says what several say of located and random choices.

Written by `python -m benchmarks.recipes_in_full`, which goes on where it stopped; the raw rows are in
`benchmarks/results/recipes.jsonl`.
"""

COLUMNS = ("recipe", "measured", "before", "after", "random", "general loss", "KL", "trained", "CPU minutes", "memory")


def page(rows: Iterable[Row]) -> str:
    """The page of all rows; of each recipe and change, the last row counts."""
    last = {(row["recipe"], tuple(row["changes"])): row for row in rows}
    order = {name: place for place, name in enumerate(shipped())}
    known = sorted(last.values(), key=lambda row: (order.get(row["recipe"], len(order)), row["changes"]))
    good = [row for row in known if row["run"]]
    parts = [HEAD]
    for topic in dict.fromkeys(row["topic"] for row in good):
        parts.append(f"## {_title(topic)}\n\n" + _topic([r for r in good if r["topic"] == topic]))
    failed = [row for row in known if row["failure"]]
    if failed:
        lines = [[_name(row), _cell(row["failure"])] for row in failed]
        parts.append("## Failures\n\n" + table(("recipe", "what happened"), lines))
    missing = [name for name in order if name not in {row["recipe"] for row in known}]
    if missing:
        parts.append("## Not run in full yet\n\n" + ", ".join(f"`{name}`" for name in missing) + "\n")
    if known:
        parts.append("## Measured on\n\n" + _places(known))
    return "\n".join(parts)


def _title(topic: str) -> str:
    """``sft_then_dpo``: SFT then DPO."""
    first, *others = (word.upper() if word in TRAINERS else word for word in words(topic or "first").split())
    return " ".join([first[0].upper() + first[1:], *others])


def _topic(rows: Sequence[Row]) -> str:
    lines = [line for row in rows for line in _lines(row, checked(row["run"]))]
    return table(COLUMNS, lines, right=2) + "\n" + "".join(f"- `{row['recipe']}`: {_about(row)}\n" for row in rows)


def _lines(row: Row, run: RunRecord) -> list[list[str]]:
    """A line a metric; what holds for the whole run stands in the first."""
    random = run.random
    lines = [
        [
            measured(name, state.get(name)) if state else "-"
            for state in (run.before, run.after, random and random.after)
        ]
        for name in metrics(run.after)
    ] or [["-"] * 3]
    names = [words(name) for name in metrics(run.after)] or ["nothing"]
    whole = [
        *_kept(run),
        share(run.trainable, run.total),
        f"{seconds(row) / 60:.0f}",
        gigabytes(run.peak_bytes),
    ]
    first, *rest = zip(names, lines, strict=True)
    return [
        [_name(row), first[0], *first[1], *whole],
        *(["", name, *line, *[""] * len(whole)] for name, line in rest),
    ]


def _kept(run: RunRecord) -> list[str]:
    if run.retention is None:
        return ["-", "-"]
    start, after, random = run.retention.before.loss, run.retention.after, run.random and run.random.retention
    rise, kl = signed(after.loss - start), amount(after.kl)
    return [f"{rise} ({signed(random.loss - start)})", f"{kl} ({amount(random.kl)})"] if random else [rise, kl]


def _about(row: Row) -> str:
    run = row["run"]
    task, text = run["task"], (run.get("retention") or {}).get("text")
    named = row.get("kept") or ("its own samples" if text == "self" else text)
    kept = "" if text is None else f"; kept: {_cell(named)}"
    wrong = [check["name"] for check in run.get("checks", []) if not check["ok"]]
    failed = f"; **failed: {', '.join(wrong)}**" if wrong else ""
    changed = f"; changed: {', '.join(row['changes'])}" if row["changes"] else ""
    return (
        f"{_cell(row['data'])}; {task['train']:,} rows to train, {task['test']} to test; {run['trainer']}, mode "
        f"{run['mode']}, {run['method']}, budget {run['budget']}, rate {row['learning_rate']:.2g}, "
        f"{row['steps']} steps{kept}{changed}{failed}"
    )


def _places(rows: Sequence[Row]) -> str:
    """Machines, versions and seeds, and the recipes of each."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        source = row["run"] or row
        versions = ", ".join(f"{name} {version}" for name, version in source["versions"].items())
        seed = str(source.get("seed", "-"))
        found.setdefault((f"{source['machine']}, threads: {row['threads']}", versions, seed), []).append(row["recipe"])
    lines = [[*place, ", ".join(dict.fromkeys(names))] for place, names in found.items()]
    return table(("machine", "versions", "seed", "recipes"), lines)


def _name(row: Row) -> str:
    return f"`{row['recipe']}`" + (f" ({', '.join(row['changes'])})" if row["changes"] else "")


def _cell(text: str | None) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def table(head: Sequence[str], lines: Iterable[Sequence[str]], right: int | None = None) -> str:
    """A table; from column ``right`` on, numbers."""
    marks = ["---:" if right is not None and i >= right else "---" for i in range(len(head))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, marks, *lines))
