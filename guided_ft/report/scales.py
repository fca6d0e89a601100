"""What the figures share: colours, layout, ticks and log scales that survive a zero."""

from __future__ import annotations

import math

import numpy as np

from ..system.files import Json

ACCENT, SOFT, GREY, INK = "#1b6ca8", "#b9d3e6", "#a3abb5", "#1f2933"
SEQUENTIAL = [[0, "#f1f5f9"], [0.35, "#b9d3e6"], [0.7, "#4b8fc0"], [1, "#0d3b66"]]
DIVERGING = [[0, "#8c4513"], [0.25, "#d9a77c"], [0.5, "#f7f7f7"], [0.75, "#6fa5cc"], [1, "#0d3b66"]]
BINS = 60
DECADES = 6
"""Decades that a log scale shows at most: what is smaller is drawn at its lower end."""


def base_layout(height: int, x: str, y: str) -> Json:
    """The look that all figures share; ``x`` and ``y`` are the titles of the axes."""
    axis = {"gridcolor": "#e8ebef", "linecolor": "#c5ccd3", "zerolinecolor": "#c5ccd3", "automargin": True}
    return {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 30, "b": 48},
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        "showlegend": False,
        "xaxis": axis | {"title": {"text": x, "standoff": 8}, "zeroline": False},
        "yaxis": axis | {"title": {"text": y, "standoff": 10}},
    }


def every(count: int, most: int) -> Json:
    """Ticks at whole numbers, thinned so that their labels never touch."""
    step = next(s for s in (1, 2, 4, 8, 16, 32, count + 1) if count / s <= most)
    return {"tick0": 0, "dtick": step, "tickangle": 0}


def bin_edges(values: np.ndarray, cut: float) -> tuple[np.ndarray, float]:
    """Edges of equal bins over the values, one of them at ``cut``, so that no bin is half chosen."""
    low, high = float(values.min()), float(values.max())
    width = (high - low) / BINS or 1.0
    first, last = math.floor((cut - low) / width) + 1, math.floor((high - cut) / width) + 1
    return cut + width * np.arange(-first, last + 1), width


def colour_scale(values: np.ndarray) -> tuple[Json, bool]:
    """Colours for a map: log10 if no score is negative, else around zero. Zero gets the lightest colour, no gap."""
    bar = {"title": {"text": "score", "side": "top"}, "thickness": 12, "outlinewidth": 0}
    if (values < 0).any() or not (values > 0).any():
        most = float(np.abs(values).max()) or 1.0
        scale = {"z": values.tolist(), "zmin": -most, "zmax": most, "colorscale": DIVERGING, "colorbar": bar}
        return scale, False
    high = math.log10(values.max())
    low = max(math.log10(values[values > 0].min()), high - DECADES)
    if high - low < 1e-6:
        low = high - 1
    z = np.log10(np.maximum(values, 10**low)).round(5).tolist()
    scale = {"z": z, "zmin": low, "zmax": high, "colorscale": SEQUENTIAL, "colorbar": bar | log_ticks(low, high)}
    return scale, True


def log_ticks(low: float, high: float) -> Json:
    """Ticks of a linear axis that carries log10 values, labelled with the values themselves."""
    span = high - low
    steps = (1, 2, 5) if span <= 2.5 else (1,)
    stride = max(1, math.ceil(span / 7))
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [math.log10(s) + d for d in decades if d % stride == 0 for s in steps]
    ticks = [t for t in ticks if low - 1e-9 <= t <= high + 1e-9]
    if len(ticks) < 2:
        ticks = [low, (low + high) / 2, high]
    return {"tickmode": "array", "tickvals": [round(t, 6) for t in ticks], "ticktext": [f"{10**t:.3g}" for t in ticks]}


def mark(layout: dict[str, object], x: float, text: str) -> None:
    """A dashed line across the chart, with its name above the frame, where the legend then is not."""
    line = {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1}
    layout["shapes"] = [line | {"line": {"color": INK, "width": 1.5, "dash": "dash"}}]
    note = {"xref": "x", "yref": "paper", "x": x, "y": 1.01, "yanchor": "bottom", "text": text, "showarrow": False}
    layout["annotations"] = [note]
