"""A comparison as a page of its own, and as a section in the page of a run."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import jinja2

from ..system.files import Json, write_text
from .compared import every_rate, remarks, setup, table
from .comparison import RECORD, Comparison
from .front import front
from .record import RunRecord

PLACES = ("compare", "compare-quick")
"""Where comparisons lie in the folder of a run, the whole one before the quick one."""


def template(name: str) -> jinja2.Template:
    """A template of this room."""
    room = files(__package__)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda part: (room / part).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def write_comparison(home: Path) -> Path:
    """Write ``report.html`` into the folder of a comparison and return its path.

    Raises:
        GuidedError: if ``compare.json`` is missing or damaged.
    """
    found = Comparison.load(home / RECORD)
    shown = shown_comparison(found)
    page = template("comparison.html.j2").render(
        title=f"{found.name} - ways of training",
        found=found,
        compared=shown,
        rates=every_rate(found),
        setup=setup(found),
        figures=[],
    )
    target = home / "report.html"
    write_text(target, page)
    return target


def shown_comparison(found: Comparison) -> Json:
    """What the templates show of a comparison."""
    return {
        "table": table(found),
        "remarks": remarks(found),
        "front": front(found),
        "command": found.command,
    }


def comparison_of(folder: Path, run: RunRecord) -> Comparison | None:
    """The comparison in the folder of a run, if it is of the same model and task, chosen and trained as the run was.

    Its steps may be fewer, as it is told beside it. What an earlier version did not write counts as the same.

    Raises:
        GuidedError: if it is damaged.
    """
    for place in PLACES:
        if (folder / place / RECORD).is_file():
            found = Comparison.load(folder / place / RECORD)
            theirs = (found.model, found.task["name"], found.method, found.budget, found.trainer, found.mode)
            own = (run.model, run.task.name, run.method, run.budget, run.trainer, run.mode)
            if all(a == b for a, b in zip(theirs, own, strict=True) if a is not None and b is not None):
                return found
    return None
