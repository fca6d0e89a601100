"""The map of regimes: where locating helps, by budget, data size and length of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arms.labels import label
from ..page import words
from ..page.drawing import drawing
from .compare import ALPHA, METRICS, Comparison
from .duels import sorted_by_arm

_MAPPED = {"score": 10.0, "forgetting_at_equal_score": 0.5}
"""The metrics, and the least difference that is drawn in full colour: small ones must look small."""

_CAPTION = (
    "A row: who is compared, training examples x steps. Blue: better than the control, brown: worse. "
    "** p < 0.05 after Holm's correction, * before it only.\n"
    "In brackets: too few runs for any p < 0.05. Empty: not run, or no score that both reach."
)


def draw(comparisons: Sequence[Comparison], path: Path, title: str) -> None:
    """Mean differences, one panel a metric: a row for an arm, its control, data size and steps, a column a budget.

    Blue is better for the arm, brown worse; two stars mark p < 0.05 after Holm's correction, one before it only. What
    could not have come out so, for want of runs, has no colour.
    """
    from matplotlib.colors import LinearSegmentedColormap

    from guided_ft.report.scales import DIVERGING

    colours = LinearSegmentedColormap.from_list("better", [(float(str(place)), str(ink)) for place, ink in DIVERGING])
    metrics = [metric for metric in METRICS if metric.name in _MAPPED]
    comparisons = [each for each in sorted_by_arm(comparisons) if each.metric in metrics]
    pairs = dict.fromkeys(map(_pair, comparisons))
    # A pair's rows stand together, the fewest examples first, whatever budgets they were run with.
    rows = sorted(dict.fromkeys(map(_row, comparisons)), key=lambda row: (list(pairs).index(row[:2]), row[2:]))
    budgets = sorted({each.line.budget or 0.0 for each in comparisons})
    width = max(2.6, 0.62 * len(budgets))
    with drawing(path, 4.4 + width * len(metrics), 1.3 + 0.27 * len(rows)) as figure:
        plots = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
        for plot, metric in zip(plots, metrics, strict=True):
            cells = {
                (rows.index(_row(each)), budgets.index(each.line.budget or 0.0)): each
                for each in comparisons
                if each.metric == metric
            }
            coloured = {place: each for place, each in cells.items() if each.adjusted is not None}
            most = max([_MAPPED[metric.name], *(abs(each.difference) for each in coloured.values())])
            values = np.full((len(rows), len(budgets)), np.nan)
            for place, each in coloured.items():
                values[place] = each.difference * metric.better
            plot.imshow(values, cmap=colours, vmin=-most, vmax=most, aspect="auto")
            _cells(plot, cells, most)
            plot.grid(False)
            plot.tick_params(length=0)
            plot.set_xticks(range(len(budgets)), [words.brief(budget) for budget in budgets])
            plot.set_yticks(range(len(rows)), [_named(row, rows[i - 1] if i else None) for i, row in enumerate(rows)])
            plot.set_title(metric.label, loc="left")
            plot.set_xlabel("budget (% of the parameters)")
            for i in range(1, len(rows)):
                if rows[i][:2] != rows[i - 1][:2]:
                    plot.axhline(i - 0.5, color="#cccccc", linewidth=0.5)
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        figure.text(0.01, 0.01, _CAPTION, fontsize=7)
        figure.tight_layout(rect=(0, 0.34 / figure.get_figheight(), 1, 1 - 0.05 / figure.get_figheight()))


def _pair(each: Comparison) -> tuple[str, str]:
    return each.line.arm, each.control


def _row(each: Comparison) -> tuple[str, str, int, int]:
    return each.line.arm, each.control, each.setting.data_size, each.setting.steps


def _named(row: tuple[str, str, int, int], above: tuple[str, str, int, int] | None) -> str:
    """Who is compared, where the row above does not say it."""
    arm, control, examples, steps = row
    who = "" if above and above[:2] == row[:2] else f"{label(arm)} against {label(control)}: "
    return f"{who}{examples:,} x {steps:,}"


def _cells(plot: Any, cells: dict[tuple[int, int], Comparison], most: float) -> None:
    for (y, x), each in cells.items():
        text = words.number(each.difference, min(each.metric.digits, 3), True)
        if each.adjusted is None:
            text, ink = f"({text})", "#8a8f98"
        else:
            text += "**" if each.adjusted < ALPHA else "*" if each.p is not None and each.p < ALPHA else ""
            ink = "white" if abs(each.difference) > 0.6 * most else "black"
        plot.text(x, y, text, ha="center", va="center", color=ink, fontsize=7)


def worth_drawing(comparisons: Sequence[Comparison]) -> bool:
    """Whether there is more than one cell to draw."""
    return len({(*_row(each)[2:], each.line.budget) for each in comparisons}) > 1
