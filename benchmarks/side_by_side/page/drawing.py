"""``drawing``: a plot as SVG; the same strokes give the same bytes. matplotlib is imported when a plot is drawn."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guided_ft.errors import GuidedError
from guided_ft.system.files import Json, write_text

_STYLE: Json = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
}
_STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "guided_ft", "legend.frameon": False}
# Text stays text: smaller than outlines, and searchable.
_STYLE |= {"svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"]}
_STYLE |= {"xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8}


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure of so many inches that is written to ``path``, the same bytes for the same strokes."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise GuidedError("the plots need matplotlib (pip install matplotlib)") from None
    style: Any = {**matplotlib.rcParamsDefault, "backend": "svg", **_STYLE}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height))
        yield figure
        strokes = io.StringIO()
        figure.savefig(strokes, format="svg", metadata={"Date": None, "Creator": "guided_ft"})
    # A hundredth of a point is finer than any screen, and half the file.
    write_text(path, re.sub(r"(?<=[ \"(])-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", strokes.getvalue()))
