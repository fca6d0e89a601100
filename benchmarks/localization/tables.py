"""The tables of benchmarks/MAPS.md, from the rows alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .agreement import REPLACED
from .cost import SHAPES
from .rows import Rows
from .tasks import TASKS


def table(rows: Rows) -> str:
    return "\n".join([*_cost_table(rows), "", *_verify_table(rows), *_agreement_table(rows)])


def _cost_table(rows: Rows) -> Iterable[str]:
    yield "| method | " + " | ".join(f"CPU time, {shape}" for shape in SHAPES) + " | peak memory, 8x128 |"
    yield "| --- |" + " ---: |" * (len(SHAPES) + 1)
    costs = {(r["shape"], r["method"]): r for r in rows.rows if r["kind"] == "cost"}
    peaks = {r["method"]: r["peak_mib"] for r in rows.rows if r["kind"] == "memory"}
    for label in dict.fromkeys([label for _, label in costs] + list(peaks)):
        cells = [_cell(costs.get((shape, label), {}).get("ratio"), "{:.2f}") for shape in SHAPES]
        share = peaks[label] / peaks["plain"] if label in peaks and "plain" in peaks else None
        yield f"| {label} | {' | '.join(cells)} | {_cell(share, '{:.2f}')} |"


def _verify_table(rows: Rows) -> Iterable[str]:
    found = [r for r in rows.rows if r["kind"] == "verify"]
    if not found:
        return
    costs = "ablated | of the full sweep, tokens x layers | of it, CPU time | full sweep in passes"
    yield f"| `verify=60` of 270 heads | {costs} | recall | misses |"
    yield "| --- |" + " ---: |" * 6
    for r in found:
        costs = f"{r['ablated']} | {r['counted']:.2f} | {r['share']:.2f} | {r['sweep']:.1f}"
        counts = f"{costs} | {r['recall']:.2f} | {len(r['misses'])}"
        yield f"| {r['task']} | {counts} |"


def _agreement_table(rows: Rows) -> Iterable[str]:
    exact = {(r["task"], r["component"], r["replace"]): r for r in rows.rows if r["kind"] == "exact"}
    found = [r for r in rows.rows if r["kind"] == "agreement"]
    for kind, replaced in REPLACED.items():
        patched = "corrupted" in replaced
        yield ""
        yield f"{kind}s: Spearman / Pearson / share of the top in common with the exact effects of zero ablation"
        yield ""
        yield "| method | " + " | ".join(TASKS) + " | Spearman, mean |" + " with patching, mean |" * patched
        yield "| --- |" + " ---: |" * (len(TASKS) + 1 + patched)
        truths = {replace: [exact.get((task, kind, replace)) for task in TASKS] for replace in replaced}
        ceilings = {k: [t and t["ceiling"] for t in rows_of] for k, rows_of in truths.items()}
        means = " | ".join(_mean(ceilings[replace]) for replace in replaced)
        yield "| ceiling | " + " | ".join(_cell(c, "{:.2f}") for c in ceilings["zero"]) + f" | {means} |"
        means = " | ".join(_mean([t and t["split_half"] for t in truths[replace]]) for replace in replaced)
        yield (
            "| exact, half against half | "
            + " | ".join(_three(t, "split_half") for t in truths["zero"])
            + f" | {means} |"
        )
        cells = {(r["method"], r["replace"], r["task"]): r for r in found if r["component"] == kind}

        def spearmans(label: str, replace: str, cells: Any = cells) -> list[float]:
            return [cells[label, replace, task]["spearman"] for task in TASKS if (label, replace, task) in cells]

        labels = dict.fromkeys(label for label, _, _ in cells)
        for label in sorted(labels, key=lambda m: -float(np.mean(spearmans(m, "zero") or [9.0]))):
            told = " | ".join(_three(cells.get((label, "zero", task)), "spearman") for task in TASKS)
            yield f"| {label} | {told} | " + " | ".join(_mean(spearmans(label, k)) for k in replaced) + " |"


def _three(row: dict[str, object] | None, first: str) -> str:
    return f"{row[first]:.2f} / {row['pearson']:.2f} / {row['overlap']:.2f}" if row else ""


def _mean(values: list[Any]) -> str:
    return f"{np.mean(values):.2f}" if values and None not in values else ""


def _cell(value: object, form: str) -> str:
    return "" if value is None else form.format(value)
