"""What a small picture is drawn with: a frame with axes, lines, marks and a legend, as SVG text.

Lengths are in the units of the picture, which is ``WIDTH`` wide and scales with the page. All text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .scales import INK

WIDTH, HEIGHT = 1000, 460
GRID = "#e8ebef"
LETTER = 7.0
"""About the width of a letter."""

ROOM = 0.06
"""Share of the range that is left free at either end."""

TICKS = 7
"""Ticks of the upright axis, at most."""

Place = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """Where values lie in the picture, with a little room around them.

    Args:
        x, y: all values that must be inside.
    """

    x: Sequence[float]
    y: Sequence[float]
    left: float = 64
    right: float = WIDTH - 12
    top: float = 62
    bottom: float = HEIGHT - 52

    def at_x(self, value: float) -> float:
        low, high = self._range(self.x)
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def at_y(self, value: float) -> float:
        low, high = self._range(self.y)
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def _range(self, values: Sequence[float]) -> Place:
        low, high = min(values), max(values)
        room = ROOM * (high - low) or 1.0
        return low - room, high + room

    def upright(self, x: float, colour: str = GRID, dashes: str = "") -> str:
        """A line from the bottom to the top."""
        at = self.at_x(x)
        return line([(at, self.bottom), (at, self.top)], colour, dashes, width=1.5 if dashes else 1)

    def across(self, y: float, colour: str = GRID, dashes: str = "") -> str:
        """A line from the left to the right."""
        at = self.at_y(y)
        return line([(self.left, at), (self.right, at)], colour, dashes, width=1.5 if dashes else 1)

    def axes(self, x_ticks: Sequence[tuple[float, str]], x_title: str, y_title: str) -> str:
        """The grid, with ticks at given places below and at round numbers on the left, and the titles."""
        low, high = self._range(self.x)
        parts = []
        for value, name in x_ticks:
            if low <= value <= high:
                parts += [self.upright(value), text(self.at_x(value), self.bottom + 16, name, "middle")]
        for value in round_numbers(*self._range(self.y)):
            parts += [self.across(value), text(self.left - 8, self.at_y(value) + 4, f"{value:g}", "end")]
        parts.append(text((self.left + self.right) / 2, HEIGHT - 10, x_title, "middle"))
        turned = f'transform="rotate(-90 16 {HEIGHT / 2:g})"'
        parts.append(text(16, HEIGHT / 2, y_title, "middle", turned))
        return "".join(parts)

    def legend(self, entries: Sequence[tuple[str, str, str]]) -> str:
        """Rows of names, colours and shapes above the frame; they go on in a second row where one is full."""
        x, y, parts = self.left + 6, 14.0, []
        for name, colour, shape in entries:
            wide = 26 + LETTER * len(name)
            if x + wide > self.right and x > self.left + 6:
                x, y = self.left + 6, y + 20
            parts += [marker(shape, x, y, 5, colour), text(x + 11, y + 4, name)]
            x += wide
        return "".join(parts)

    def picture(self, name: str, title: str, parts: Sequence[str]) -> str:
        """The whole of it, for a page."""
        return (
            f'<svg id="{escape(name)}" role="img" aria-label="{escape(title)}" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="100%" font-size="13" fill="{INK}">{"".join(parts)}</svg>'
        )


def round_numbers(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two numbers, ``TICKS`` at most."""
    power = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    step = next(s * power for s in (1, 2, 5, 10) if (high - low) / (s * power) < TICKS)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def line(places: Sequence[Place], colour: str, dashes: str = "", width: float = 2) -> str:
    along = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{along}" fill="none" stroke="{escape(colour)}" stroke-width="{width:g}"{dashed}/>'


def marker(
    shape: str, x: float, y: float, radius: float, colour: str, *, ring: str | None = None, told: str = ""
) -> str:
    """One mark; ``told`` is shown where the pointer rests on it."""
    corners = " ".join(f"{x + radius * dx:.1f},{y + radius * dy:.1f}" for dx, dy in _CORNERS[shape])
    stroke = f' stroke="{ring}" stroke-width="2.5"' if ring else ""
    title = f"<title>{escape(told)}</title>" if told else ""
    return f'<polygon points="{corners}" fill="{escape(colour)}"{stroke}>{title}</polygon>'


def _around(corners: int, turn: float = 0.0, radii: Sequence[float] = (1.0,)) -> list[Place]:
    """Corners of a regular figure, the first one on top, or turned by so many degrees; of a star with two radii."""
    angles = [math.radians(360 * i / corners + turn - 90) for i in range(corners)]
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)]


def _plus(turn: float = 0.0) -> list[Place]:
    """A plus with arms a third as wide as it is."""
    near, far = math.hypot(1 / 3, 1 / 3), math.hypot(1, 1 / 3)
    off = math.degrees(math.atan(1 / 3))
    angles = [(arm * 90 + turn + side, r) for arm in range(4) for side, r in ((-off, far), (off, far), (45, near))]
    return [(r * math.cos(math.radians(a)), r * math.sin(math.radians(a))) for a, r in angles]


_CORNERS: dict[str, list[Place]] = {
    "square": _around(4, 45, (1.25,)),
    "diamond": _around(4, 0, (1.3,)),
    "circle": _around(32),
    "triangle": _around(3, 0, (1.3,)),
    "plus": _plus(),
    "star": _around(10, 0, (1.4, 0.6)),
    "hexagon": _around(6, 0, (1.15,)),
    "cross": _plus(45),
}

SHAPES = tuple(_CORNERS)
