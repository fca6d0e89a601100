"""The map of regimes: where locating helps, by budget and data size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import words
from .compare import ALPHA, METRICS, Comparison
from .duels import sorted_by_arm
from .figures import drawing
from .labels import label

_MAPPED = ("score", "forgetting_at_equal_score")


def draw(comparisons: Sequence[Comparison], path: Path, title: str) -> None:
    """Budget by data size, one row of panels an arm and its control, one column a metric: the mean difference.

    Blue is better for the arm, brown worse; a filled dot marks p < 0.05 after Holm's correction, an open one before.
    """
    from matplotlib.colors import LinearSegmentedColormap

    from ..report.scales import DIVERGING

    colours = LinearSegmentedColormap.from_list("better", [(float(str(place)), str(ink)) for place, ink in DIVERGING])
    comparisons = [each for each in comparisons if each.metric.name in _MAPPED]
    pairs = list(dict.fromkeys((each.line.arm, each.control) for each in sorted_by_arm(comparisons)))
    metrics = [metric for metric in METRICS if metric.name in _MAPPED]
    budgets = sorted({each.line.budget or 0.0 for each in comparisons})
    # A pair has rows for the data sizes that it was run with: the others would be grey throughout.
    sizes = {
        pair: sorted({each.setting.data_size for each in comparisons if (each.line.arm, each.control) == pair})
        for pair in pairs
    }
    width, heights = max(4.6, 1.3 + 0.72 * len(budgets)), [0.75 + 0.36 * len(sizes[pair]) for pair in pairs]
    with drawing(path, width * len(metrics), sum(heights) + 1.0) as figure:
        plots = figure.subplots(len(pairs), len(metrics), squeeze=False, height_ratios=heights)
        for j, metric in enumerate(metrics):
            mine = [each for each in comparisons if each.metric.name == metric.name]
            most = max((abs(each.difference) for each in mine), default=0) or 1.0
            for i, pair in enumerate(pairs):
                cells = {
                    (sizes[pair].index(each.setting.data_size), budgets.index(each.line.budget or 0.0)): each
                    for each in mine
                    if (each.line.arm, each.control) == pair
                }
                values = np.full((len(sizes[pair]), len(budgets)), np.nan)
                for place, each in cells.items():
                    values[place] = each.difference * metric.better
                plot = plots[i][j]
                plot.imshow(values, cmap=colours, vmin=-most, vmax=most, aspect="auto", origin="lower")
                _cells(plot, cells, most)
                plot.grid(False)
                plot.set_xticks(range(len(budgets)), [words.brief(b) for b in budgets])
                plot.set_yticks(range(len(sizes[pair])), [f"{n:,}" for n in sizes[pair]])
                # Who is compared stands over the first panel of a row: the titles must not run into each other.
                plot.set_title("" if j else f"{label(pair[0])} against {label(pair[1])}", loc="left")
                plot.set_xlabel("budget (% of the parameters)" if i == len(pairs) - 1 else "")
        what = ", right ".join(metric.label for metric in metrics)
        figure.suptitle(f"{title}: left {what}", fontsize=10, x=0.01, ha="left")
        figure.supylabel("training examples", fontsize=9)
        figure.text(
            0.01,
            0.01,
            "Blue: better than the control, brown: worse, grey: not run, or no score that both reach. "
            "● p < 0.05 after Holm's correction, ○ before.",
            fontsize=8,
        )
        figure.tight_layout(rect=(0, 0.22 / figure.get_figheight(), 1, 1 - 0.2 / figure.get_figheight()))


def _cells(plot: Any, cells: dict[tuple[int, int], Comparison], most: float) -> None:
    plot.set_facecolor("#dddddd")
    for (y, x), each in cells.items():
        sure = each.adjusted is not None and each.adjusted < ALPHA
        mark = "●" if sure else "○" if each.p is not None and each.p < ALPHA else ""
        ink = "white" if abs(each.difference) > 0.6 * most else "black"
        digits = each.metric.digits if each.metric.digits < 3 else 3
        text = words.number(each.difference, digits, True)
        plot.text(x, y, f"{text} {mark}".strip(), ha="center", va="center", color=ink, fontsize=7)


def worth_drawing(comparisons: Sequence[Comparison]) -> bool:
    """Whether there is more than one cell to draw."""
    return len({(each.line.budget, each.setting.data_size) for each in comparisons}) > 1
