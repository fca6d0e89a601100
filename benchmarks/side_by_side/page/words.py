"""Numbers as the cells of Markdown tables. What is missing is a dash, never a guess."""

from __future__ import annotations

from collections.abc import Sequence

from ..rows.statistics import Spread

DASH = "-"


def number(value: float | None, digits: int, signed: bool = False) -> str:
    """A number with so many decimals; what rounds to nothing has no minus sign."""
    if value is None:
        return DASH
    rounded = round(value, digits) + 0.0
    return f"{rounded:{'+' if signed else ''},.{digits}f}"


def brief(value: float | None, unit: str = "") -> str:
    """A number with three figures, such as a budget, a rate or a p value."""
    return DASH if value is None else f"{value:.3g}{unit}"


def p_value(value: float | None) -> str:
    return DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def plus_minus(measured: tuple[Spread | None, int], digits: int, signed: bool = False) -> str:
    """``mean ± deviation``; where not all runs have a value, how many do: ``0.120 (1 of 3)``, ``- (0 of 3)``."""
    spread, runs = measured
    if spread is None:
        return f"{DASH} (0 of {runs})"
    text = number(spread.mean, digits, signed)
    if spread.deviation is not None:
        text += f" ± {number(spread.deviation, digits)}"
    return text if spread.runs == runs else f"{text} ({spread.runs} of {runs})"


def between(ends: tuple[float, float] | None, digits: int) -> str:
    return DASH if ends is None else f"{number(ends[0], digits, True)} to {number(ends[1], digits, True)}"


def size(count: float) -> str:
    """Bytes in the unit that fits."""
    units = ["B", "kB", "MB", "GB"]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.3g} {units[0]}"


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table; the first ``texts`` columns are aligned left, the others right."""
    rule = ["---" if i < texts else "---:" for i in range(len(head))]
    rows = [head, rule, *([escape(cell) for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def escape(text: str) -> str:
    """Text that stays text in a Markdown cell."""
    for mark in "\\|`<>[]*_":
        text = text.replace(mark, "\\" + mark)
    return text


def folded(summary: str, body: str) -> str:
    """A part of the page that opens on a click."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"
