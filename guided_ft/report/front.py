"""The front as a picture: score against forgetting, one line for each way of training. Plain SVG, so that the page of a
comparison needs no library."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .comparison import Comparison, Point, Way
from .facts import is_nats, is_percent, lower_is_better, measured, signed
from .scales import GREY, INK
from .svg import SHAPES, Frame, line, marker, text

LINEAR = 0.01
"""Forgetting (nats) around zero that is drawn to scale; what is larger is drawn on a log scale."""

_TICKS = (-1.0, -0.1, -0.03, -0.01, 0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

_SMALL, _PICKED = 5.0, 7.5
"""Radius of a mark, and of the one that validation picks."""


@dataclass(frozen=True)
class Front:
    """The picture, and the words around it."""

    title: str
    note: str
    svg: str


def front(found: Comparison) -> Front | None:
    """Every rate of every way; a line joins what no other rate of the same way beats. None if nothing was measured.

    A rate is on the line if no other one of its way both scores more and forgets less, on the test examples.
    """
    ways = [way for way in found.ways if way.ended()]
    if not ways:
        return None
    points = [point for way in ways for point in way.ended()]
    frame = Frame(
        x=[bent(0.0), bent(found.limit), *(bent(point.mean("forgetting")) for point in points)],
        y=[found.base["score"], *(point.mean("score") for point in points)],
    )
    shapes = {way.name: shape for way, shape in zip(ways, SHAPES * len(ways), strict=False)}
    parts = [
        frame.axes(
            [(bent(tick), f"{tick:g}") for tick in _TICKS],
            "forgetting: rise of the loss on general text (nats a token)",
            f"{found.noun} on test examples" + _unit(found.metric),
        ),
        frame.across(found.base["score"], GREY, "2 3"),
        frame.upright(bent(found.limit), INK, "6 4"),
        text(frame.at_x(bent(found.limit)), frame.top - 6, f"{found.limit:g} nats", "middle"),
        *(_way(found, way, frame, shapes[way.name]) for way in ways),
        frame.legend([(way.label, way.colour, shapes[way.name]) for way in ways]),
    ]
    note = (
        f"{'Down' if lower_is_better(found.metric) else 'Up'} and to the left is better. Each mark is one learning rate"
        + (f", the mean of {len(found.seeds)} seeds" if len(found.seeds) > 1 else "")
        + "; a line joins those that no other rate of the same way beats; the ring is the rate that validation picks "
        f"among those left of the dashed line. Grey dots: {found.noun} before training. Below {LINEAR:g} nats the axis "
        "is linear, above it logarithmic."
    )
    return Front("Score against forgetting", note, frame.picture("fig-front", "Score against forgetting", parts))


def _unit(metric: str) -> str:
    return " (%)" if is_percent(metric) else " (nats)" if is_nats(metric) else ""


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


def _way(found: Comparison, way: Way, frame: Frame, shape: str) -> str:
    def place(point: Point) -> tuple[float, float]:
        return frame.at_x(bent(point.mean("forgetting"))), frame.at_y(point.mean("score"))

    picked = way.best(found.metric, found.limit)
    marks = [
        marker(
            shape,
            *place(point),
            _PICKED if point is picked else _SMALL,
            way.colour,
            ring=INK if point is picked else None,
            told=f"{way.label}, rate {point.rate:.3g}: {found.noun} {measured(found.metric, point.mean('score'))}, "
            f"forgetting {signed(point.mean('forgetting'))} nats",
        )
        for point in way.ended()
    ]
    return line([place(point) for point in unbeaten(found, way)], way.colour) + "".join(marks)
