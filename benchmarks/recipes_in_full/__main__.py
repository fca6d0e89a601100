"""``python -m benchmarks.recipes_in_full``: the shipped recipes in full; what came of it goes into ``recipes/``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guided_ft.cli import Interrupted, main
from guided_ft.errors import pick
from guided_ft.recipe.recipe import shipped
from guided_ft.system.files import write_text
from guided_ft.system.signals import terminated_as_interrupted

from .full import ROOT, Place, jobs, read_rows, run_all
from .page import page as written
from .times import times

PROGRAM = "python -m benchmarks.recipes_in_full"

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def recipes_in_full(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME ...] [KEY=VALUE ...]", help="Only these recipes; keys to change, told in rows."),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder with local copies of data sets; may be given several times.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of each run.")] = 1,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what failed.")] = False,
    only_page: Annotated[bool, typer.Option("--page-only", help="Write the page of the rows there are.")] = False,
    work: Annotated[Path, typer.Option(help="Folder of the runs and logs.")] = Path("runs/recipes_in_full"),
    rows: Annotated[Path, typer.Option(help="File of the rows.")] = ROOT / "benchmarks/results/recipes.jsonl",
    page: Annotated[Path, typer.Option(help="The page.")] = ROOT / "recipes/RESULTS.md",
) -> None:
    """Run each shipped recipe in full, one process each, and write what came of it. Continues where it was stopped."""
    names = [pick({name: name for name in shipped()}, word, "recipe") for word in words or [] if "=" not in word]
    changes = [word for word in words or [] if "=" in word]
    place = Place(work, rows, tuple(data or ()), threads, typer.echo)
    try:
        with terminated_as_interrupted():
            wanted = [] if only_page else jobs(names, changes, place)
            for _ in run_all(wanted, place, retry):
                # The next one may take hours.
                _tell(rows, page, place)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {PROGRAM} continues with the same command") from None
    _tell(rows, page, place)
    typer.echo(f"wrote {page}")


def _tell(rows: Path, page: Path, place: Place) -> None:
    """Write the page, and beside it the times that ``guided-ft recipes`` tells."""
    known = read_rows(rows)
    write_text(page, written(known))
    write_text(page.with_name("times.csv"), times(known, lambda name: jobs([name], [], place)[0]))


if __name__ == "__main__":
    main(None, app, PROGRAM)
