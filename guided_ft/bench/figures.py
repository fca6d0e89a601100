"""The plots of the benchmark as SVG: what an arm costs, how it gets there, and where locating helps.

matplotlib is imported when a plot is drawn; the same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import replacing
from ..errors import GuidedError
from . import words
from .compare import ALPHA, Comparison
from .groups import Line, Runs, Value
from .labels import colour, label, marker, ordered
from .statistics import Spread
from .tables import field, relative

NEAR_ZERO = 0.01
"""Forgetting is drawn on a log scale that is linear below this many nats, so that 0 and gains have a place."""

_STYLE = {"font.size": 9, "axes.titlesize": 9, "axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True}
_STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "guided_ft", "legend.frameon": False}
_STYLE |= {"xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8}


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of so many inches that is written to ``path``, the same bytes for the same strokes."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise GuidedError("the plots need matplotlib (pip install matplotlib)") from None
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "svg", **_STYLE}):
        figure = Figure(figsize=(width, height))
        yield figure
        with replacing(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": "guided_ft"})


# -- Pareto ---------------------------------------------------------------------------------------------------------
def pareto(lines: dict[Line, Runs], path: Path, title: str) -> None:
    """Score against forgetting, time and trained parameters: a point a line, bars of one standard deviation; the
    budgets of one arm are joined."""
    has_full = Line("full", None) in lines
    seconds = relative(lines, field("seconds")) if has_full else field("seconds")
    panels: tuple[tuple[str, Value, str], ...] = (
        ("forgetting: rise of the held-out loss (nats)", field("forgetting"), "symlog"),
        ("time, localization included" + (" (full fine-tuning = 1)" if has_full else " (seconds)"), seconds, "log"),
        ("trained parameters (%)", field("fraction"), "log"),
    )
    arms = ordered(line.arm for line in lines)
    rows = -(-len(arms) // 5)
    with drawing(path, 11, 3.9 + 0.2 * rows) as figure:
        plots = figure.subplots(1, len(panels), sharey=True)
        for plot, (name, value, scale) in zip(plots, panels, strict=True):
            drawn = []
            for arm in arms:
                drawn += _arm(plot, lines, arm, value, log=scale == "log")
            _scale(plot, scale, drawn)
            plot.set_xlabel(name)
        plots[0].set_ylabel("score on the new task (0-100)")
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        _legend(figure, plots[0], arms, rows)


def _arm(plot: Any, lines: dict[Line, Runs], arm: str, value: Value, log: bool) -> list[float]:
    """Draw the points of an arm; returns where they lie on the x axis."""
    points: list[tuple[Spread, Spread]] = []
    for line in sorted((line for line in lines if line.arm == arm), key=lambda each: each.order):
        (x, _), (y, _) = lines[line].spread(value), lines[line].spread(field("score"))
        if x is not None and y is not None and not (log and x.mean <= 0):
            points.append((x, y))
    if points:
        xs, ys = [x.mean for x, _ in points], [y.mean for _, y in points]
        plot.errorbar(
            xs,
            ys,
            # A bar that reaches below 0 has no end on a log axis.
            xerr=[[min(x.deviation or 0, 0.95 * x.mean if log else np.inf) for x, _ in points], _bars(points, 0)],
            yerr=_bars(points, 1),
            color=colour(arm),
            marker=marker(arm),
            markersize=5,
            linewidth=0.8,
            elinewidth=0.6,
            alpha=0.9,
            zorder=3 if arm == "guided" else 2,
        )
    return [x.mean for x, _ in points]


def _bars(points: Sequence[tuple[Spread, Spread]], axis: int) -> list[float]:
    return [pair[axis].deviation or 0 for pair in points]


def _scale(plot: Any, scale: str, values: Sequence[float]) -> None:
    if scale == "log" and values:
        plot.set_xscale("log")
        _log_ticks(plot, min(values), max(values))
    elif scale == "symlog":
        _forgetting_axis(plot, "x", values)


def _log_ticks(plot: Any, low: float, high: float) -> None:
    """Plain numbers, at 1, 2, 5 if the axis is short."""
    steps = (1, 2, 5) if high / low < 30 else (1,)
    ticks = [s * 10.0**d for d in range(-6, 7) for s in steps if 0.7 * low <= s * 10.0**d <= 1.4 * high]
    if len(ticks) >= 2:
        plot.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        plot.minorticks_off()


def _forgetting_axis(plot: Any, axis: str, values: Sequence[float]) -> None:
    """Linear around 0, logarithmic beyond; linear as a whole if nothing lies beyond."""
    if max(map(abs, values), default=0) <= 3 * NEAR_ZERO:
        return
    set_scale, set_ticks = getattr(plot, f"set_{axis}scale"), getattr(plot, f"set_{axis}ticks")
    set_scale("symlog", linthresh=NEAR_ZERO, linscale=0.6)
    places = [sign * NEAR_ZERO * 10**d for sign in (-1, 1) for d in range(5)]
    low, high = min(0, *values), max(values)
    ticks = [0.0, *(p for p in places if 2 * low <= p <= 2 * high)]
    set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    getattr(plot, f"{axis}axis").set_minor_locator(_nothing())


def _nothing() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _legend(figure: Any, plot: Any, arms: Sequence[str], rows: int) -> None:
    """One legend below all panels; it lists what was drawn."""
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=colour(arm), marker=marker(arm), markersize=5, linewidth=0.8) for arm in arms]
    low = (0.2 * rows + 0.1) / figure.get_figheight()
    figure.legend(keys, [label(arm) for arm in arms], loc="lower center", ncols=5, bbox_to_anchor=(0.5, 0))
    figure.tight_layout(rect=(0, low, 1, 1))


# -- along training -------------------------------------------------------------------------------------------------
def curves(lines: dict[Line, Runs], path: Path, title: str) -> None:
    """Forgetting against score along training: the mean over runs at each measured step, from the base to the end."""
    paths = {line: _mean_curve(runs) for line, runs in lines.items()}
    paths = {line: found for line, found in paths.items() if len(found) > 1}
    arms = ordered(line.arm for line in paths)
    rows = -(-len(arms) // 4)
    with drawing(path, 7.5, 4.2 + 0.2 * rows) as figure:
        plot = figure.subplots()
        for line, found in paths.items():
            xs, ys = [score for score, _ in found], [forgetting for _, forgetting in found]
            style = {"color": colour(line.arm), "zorder": 3 if line.arm == "guided" else 2}
            plot.plot(xs, ys, "-", linewidth=1.6 if line.arm == "guided" else 1, alpha=0.85, **style)
            plot.plot(xs[1:], ys[1:], ".", markersize=3, **style)
            plot.plot(xs[-1:], ys[-1:], marker=marker(line.arm), markersize=6, **style)
        _forgetting_axis(plot, "y", [forgetting for found in paths.values() for _, forgetting in found])
        plot.set_xlabel("score on held-out examples along training (0-100)")
        plot.set_ylabel("forgetting: rise of the held-out loss (nats)")
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        _legend(figure, plot, arms, rows)


def _mean_curve(runs: Runs) -> list[tuple[float, float]]:
    """Score and forgetting, averaged over the runs at the steps that every run measured."""
    by_step = [{p["step"]: p for p in row["curve"] if p["forgetting"] is not None} for row in runs.rows]
    steps = sorted(set.intersection(*map(set, by_step))) if by_step else []
    return [
        (
            float(np.mean(sorted(points[step]["score"] for points in by_step))),
            float(np.mean(sorted(points[step]["forgetting"] for points in by_step))),
        )
        for step in steps
    ]


# -- regimes --------------------------------------------------------------------------------------------------------
def regimes(comparisons: Sequence[Comparison], path: Path, title: str) -> None:
    """Budget by data size, one row of panels an arm and one column a metric: the mean difference from a control.

    Blue is better for the arm, brown worse; a filled dot marks p < 0.05 after Holm's correction, an open one before.
    """
    from matplotlib.colors import LinearSegmentedColormap

    from ..report.scales import DIVERGING

    colours = LinearSegmentedColormap.from_list("better", [tuple(stop) for stop in DIVERGING])
    arms = ordered(each.line.arm for each in comparisons)
    metrics = list({each.metric.name: each.metric for each in comparisons}.values())
    budgets = sorted({each.line.budget or 0.0 for each in comparisons})
    sizes = sorted({each.setting.data_size for each in comparisons})
    width, height = max(3.2, 1.3 + 0.72 * len(budgets)), 0.75 + 0.36 * len(sizes)
    with drawing(path, width * len(metrics), height * len(arms) + 1.0) as figure:
        plots = figure.subplots(len(arms), len(metrics), squeeze=False)
        for j, metric in enumerate(metrics):
            mine = [each for each in comparisons if each.metric.name == metric.name]
            most = max((abs(each.difference) for each in mine), default=0) or 1.0
            for i, arm in enumerate(arms):
                cells = {
                    (sizes.index(each.setting.data_size), budgets.index(each.line.budget or 0.0)): each
                    for each in mine
                    if each.line.arm == arm
                }
                values = np.full((len(sizes), len(budgets)), np.nan)
                for place, each in cells.items():
                    values[place] = each.difference * metric.better
                plot = plots[i][j]
                plot.imshow(values, cmap=colours, vmin=-most, vmax=most, aspect="auto", origin="lower")
                _cells(plot, cells, most)
                plot.grid(False)
                plot.set_xticks(range(len(budgets)), [words.brief(b) for b in budgets])
                plot.set_yticks(range(len(sizes)), [f"{n:,}" for n in sizes])
                plot.set_title(f"{label(arm)}: {metric.label}", loc="left")
                plot.set_ylabel("training examples" if j == 0 else "")
                plot.set_xlabel("budget (% of the parameters)" if i == len(arms) - 1 else "")
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        figure.text(
            0.01,
            0.01,
            "Blue: better than the control; brown: worse. ● p < 0.05 after Holm's correction, ○ only before; grey: not run.",
            fontsize=8,
        )
        figure.tight_layout(rect=(0, 0.22 / figure.get_figheight(), 1, 1))


def _cells(plot: Any, cells: dict[tuple[int, int], Comparison], most: float) -> None:
    plot.set_facecolor("#dddddd")
    for (y, x), each in cells.items():
        sure = each.adjusted is not None and each.adjusted < ALPHA
        mark = "●" if sure else "○" if each.p is not None and each.p < ALPHA else ""
        ink = "white" if abs(each.difference) > 0.6 * most else "black"
        digits = each.metric.digits if each.metric.digits < 3 else 3
        text = words.number(each.difference, digits, True)
        plot.text(x, y, f"{text} {mark}".strip(), ha="center", va="center", color=ink, fontsize=7)


def has_regimes(comparisons: Sequence[Comparison]) -> bool:
    """Whether there is more than one cell to draw."""
    return len({(each.line.budget, each.setting.data_size) for each in comparisons}) > 1
