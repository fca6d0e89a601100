"""The front as a picture: score against forgetting, one line for each way of training."""

from __future__ import annotations

import math
from html import escape

from ..system.files import Json
from .comparison import Comparison, Point, Way
from .facts import is_percent, lower_is_better, measured, signed
from .figures import Figure
from .scales import INK, base_layout, mark

LINEAR = 0.01
"""Forgetting (nats) around zero that is drawn to scale; what is larger is drawn on a log scale."""

_TICKS = (-1.0, -0.1, -0.03, -0.01, 0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_SYMBOLS = ("square", "diamond", "circle", "triangle-up", "cross", "star", "hexagon", "x")


def front(found: Comparison) -> Figure | None:
    """Every rate of every way; a line joins what no other rate of the same way beats. None if nothing was measured.

    A rate is on the line if no other one of its way both scores more and forgets less, on the test examples.
    """
    if not any(way.ended() for way in found.ways):
        return None
    data: list[Json] = []
    for i, way in enumerate(found.ways):
        look = {"color": way.colour, "symbol": _SYMBOLS[i % len(_SYMBOLS)]}
        data += [_line(found, way), _points(found, way, look)] if way.ended() else []
    x = [bent(point.mean("forgetting")) for way in found.ways for point in way.ended()]
    low, high = min(x, default=0.0), max(x, default=1.0)
    low, high = min(low, bent(0.0)), max(high, bent(found.limit))
    room = 0.06 * (high - low)
    layout = base_layout(440, "forgetting: rise of the loss on general text (nats a token)", _axis(found))
    layout["xaxis"] |= {
        "range": [low - room, high + room],
        "tickmode": "array",
        "tickvals": [bent(t) for t in _TICKS],
        "ticktext": [f"{t:g}" for t in _TICKS],
    }
    layout |= {"showlegend": True}
    mark(layout, bent(found.limit), f"{found.limit:g} nats")
    layout["shapes"].append(_base_line(found))
    layout["margin"] |= {"t": 56}
    layout["legend"] |= {"y": 1.07}
    note = (
        f"{'Down' if lower_is_better(found.metric) else 'Up'} and to the left is better. Each mark is one learning rate"
        + (f", the mean of {len(found.seeds)} seeds" if len(found.seeds) > 1 else "")
        + "; a line joins those that no other rate of the same way beats; the ring is the rate that validation picks "
        f"among those left of the dashed line. Grey dots: {found.noun} before training. Below {LINEAR:g} nats the axis "
        "is linear, above it logarithmic."
    )
    return Figure("fig-front", "Score against forgetting", note, data, layout)


def bent(forgetting: float) -> float:
    """A place on the axis: linear around zero, logarithmic away from it, in decades."""
    return math.copysign(math.log10(1 + abs(forgetting) / LINEAR), forgetting)


def unbeaten(found: Comparison, way: Way) -> list[Point]:
    """The rates of a way that no other rate of it beats in both, from little forgetting to much."""
    sign = -1 if lower_is_better(found.metric) else 1
    kept: list[Point] = []
    for point in sorted(way.ended(), key=lambda p: (p.mean("forgetting"), -sign * p.mean("score"))):
        if not kept or sign * point.mean("score") > sign * kept[-1].mean("score"):
            kept.append(point)
    return kept


def _line(found: Comparison, way: Way) -> Json:
    points = unbeaten(found, way)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [bent(p.mean("forgetting")) for p in points],
        "y": [p.mean("score") for p in points],
        "line": {"color": way.colour, "width": 2},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _points(found: Comparison, way: Way, look: Json) -> Json:
    picked = way.best(found.metric, found.limit)
    points = way.ended()
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape(way.label),
        "x": [bent(p.mean("forgetting")) for p in points],
        "y": [p.mean("score") for p in points],
        "marker": look
        | {
            "size": [15 if p is picked else 9 for p in points],
            "line": {"color": INK, "width": [2.5 if p is picked else 0 for p in points]},
        },
        "text": [
            f"rate {p.rate:.3g}<br>{escape(found.noun)} {measured(found.metric, p.mean('score'))}"
            f"<br>forgetting {signed(p.mean('forgetting'))} nats"
            for p in points
        ],
        "hovertemplate": "%{text}",
    }


def _base_line(found: Comparison) -> Json:
    score = found.base["score"]
    line = {"type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": score, "y1": score}
    return line | {"line": {"color": "#8d98a3", "width": 1.5, "dash": "dot"}}


def _axis(found: Comparison) -> str:
    return f"{found.noun} on test examples" + (" (%)" if is_percent(found.metric) else " (nats)")
