"""Commands on the folders of runs: what they found."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..errors import GuidedError
from .program import app, examples

RunFolder = Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of a run, such as runs/quickstart.")]


@app.command(epilog=examples("report runs/quickstart"))
def report(run_folder: RunFolder) -> None:
    """Write report.html again from a run's run.json."""
    from ..report import write_report

    typer.echo(f"wrote {write_report(_run_json(run_folder).parent)}")


@app.command(epilog=examples("show runs/quickstart"))
def show(run_folder: RunFolder) -> None:
    """Print what a run found; of one that is not finished, its map and what was chosen."""
    scores = run_folder / "scores.safetensors"
    if not (run_folder / "run.json").is_file() and scores.is_file():
        _show_map(scores)
        return
    from ..report import story
    from ..report.record import read_run

    typer.echo(story(read_run(_run_json(run_folder).parent)))


def _show_map(scores: Path) -> None:
    """What ``localize`` and, if it was done, ``select`` left."""
    from ..plan.modes import make_mode
    from ..plan.plan import Plan
    from ..recipe.recipe import Recipe

    recipe = Recipe.load(scores.with_name("recipe.yaml"))
    way = make_mode(recipe.train.mode, recipe.train.rank, recipe.train.mode_options)
    typer.echo(str(way.read_map(scores)))
    plan = scores.with_name("plan.json")
    if plan.is_file():
        typer.echo(str(Plan.load(plan)))
    typer.echo(f"not finished: guided-ft run {shlex.quote(str(scores.with_name('recipe.yaml')))}")


def _run_json(folder: Path) -> Path:
    path = folder / "run.json"
    if not path.is_file():
        raise GuidedError(f"{folder}: no run.json in it (give the folder of a finished run)")
    return path
