"""The plots of ``RESULTS.md``: what an arm costs, and how it gets there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arms.labels import colour, label, marker, ordered
from ..page.drawing import drawing
from ..rows.statistics import Spread
from .groups import Line, Runs, Value, at_budget
from .tables import field, relative, total_seconds

NEAR_ZERO = 0.01
"""Forgetting is drawn on a log scale that is linear below this many nats, so that 0 and gains have a place."""


# -- Pareto ---------------------------------------------------------------------------------------------------------
def pareto(lines: dict[Line, Runs], budget: float | None, path: Path, title: str) -> None:
    """Score against forgetting and time at one budget, and against trained parameters at every budget: a point a
    line, bars of one standard deviation. The frozen base is left out: it would take most of the room."""
    lines = {line: runs for line, runs in lines.items() if line.arm != "base"}
    shown = at_budget(lines, budget)
    has_full = Line("full", None) in lines
    seconds = relative(lines, total_seconds) if has_full else total_seconds
    panels: tuple[tuple[str, Value, dict[Line, Runs], Callable[[Any, Sequence[float]], None]], ...] = (
        ("forgetting: rise of the held-out loss (nats)", field("forgetting"), shown, _forgetting_axis),
        ("time with localization, " + ("full fine-tuning = 1" if has_full else "seconds"), seconds, shown, _from_zero),
        ("trained parameters (%), every budget", field("fraction"), lines, _log_axis),
    )
    arms = ordered(line.arm for line in lines)
    with drawing(path, 11, 3.9 + _legend_height(arms, 5)) as figure:
        plots = figure.subplots(1, len(panels), sharey=True)
        for plot, (name, value, drawn, scale) in zip(plots, panels, strict=True):
            scale(plot, [x for arm in arms for x in _arm(plot, drawn, arm, value, log=scale is _log_axis)])
            plot.set_xlabel(name)
        plots[0].set_ylabel("score on the new task (0-100)")
        _frame(figure, title, arms, 5)


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


def _from_zero(plot: Any, values: Sequence[float]) -> None:
    if values and max(values) < 20 * min(values):
        plot.set_xlim(left=0)
    else:
        _log_axis(plot, values)


def _log_axis(plot: Any, values: Sequence[float]) -> None:
    """Plain numbers, at 1, 2, 5 if the axis is short."""
    if not values:
        return
    low, high = min(values), max(values)
    steps = (1, 2, 5) if high / low < 30 else (1,)
    ticks = [s * 10.0**d for d in range(-6, 7) for s in steps if 0.7 * low <= s * 10.0**d <= 1.4 * high]
    plot.set_xscale("log")
    if len(ticks) >= 2:
        plot.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        plot.minorticks_off()


def _forgetting_axis(plot: Any, values: Sequence[float], axis: str = "x") -> None:
    """Linear around 0, logarithmic beyond; linear as a whole if nothing lies beyond."""
    from matplotlib.ticker import NullLocator

    if max(map(abs, values), default=0) <= 3 * NEAR_ZERO:
        return
    getattr(plot, f"set_{axis}scale")("symlog", linthresh=NEAR_ZERO, linscale=0.6)
    places = [sign * NEAR_ZERO * step * 10.0**d for sign in (-1, 1) for d in range(5) for step in (1, 3)]
    ticks = [0.0, *(p for p in places if 1.5 * min(0, *values) <= p <= 1.5 * max(values))]
    getattr(plot, f"set_{axis}ticks")(ticks, [f"{tick:g}" for tick in ticks])
    getattr(plot, f"{axis}axis").set_minor_locator(NullLocator())


def _legend_height(arms: Sequence[str], columns: int) -> float:
    """Inches that the legend below a figure takes."""
    return 0.18 * -(-len(arms) // columns) + 0.1


def _frame(figure: Any, title: str, arms: Sequence[str], columns: int) -> None:
    """The title above, and one legend of all arms below."""
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=colour(arm), marker=marker(arm), markersize=5, linewidth=0.8) for arm in arms]
    names = [label(arm) for arm in arms]
    figure.legend(keys, names, loc="lower center", ncols=columns, bbox_to_anchor=(0.5, 0), columnspacing=1.2)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.tight_layout(rect=(0, _legend_height(arms, columns) / figure.get_figheight(), 1, 1))


# -- along training -------------------------------------------------------------------------------------------------
def curves(lines: dict[Line, Runs], path: Path, title: str) -> None:
    """Forgetting against score along training: the mean over runs at each measured step, from the base to the end."""
    paths = {line: _mean_curve(runs) for line, runs in lines.items()}
    paths = {line: found for line, found in paths.items() if len(found) > 1}
    arms = ordered(line.arm for line in paths)
    with drawing(path, 8, 4.2 + _legend_height(arms, 4)) as figure:
        plot = figure.subplots()
        for line, found in paths.items():
            xs, ys = [score for score, _ in found], [forgetting for _, forgetting in found]
            style = {"color": colour(line.arm), "zorder": 3 if line.arm == "guided" else 2}
            plot.plot(xs, ys, "-", linewidth=1.6 if line.arm == "guided" else 1, alpha=0.85, **style)
            plot.plot(xs[1:], ys[1:], ".", markersize=3, **style)
            plot.plot(xs[-1:], ys[-1:], marker=marker(line.arm), markersize=6, **style)
        _forgetting_axis(plot, [forgetting for found in paths.values() for _, forgetting in found], "y")
        plot.set_xlabel("score on held-out examples along training (0-100)")
        plot.set_ylabel("forgetting: rise of the held-out loss (nats)")
        _frame(figure, title, arms, 4)


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
