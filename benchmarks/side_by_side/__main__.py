"""The command line of the benchmark: ``python -m benchmarks.side_by_side testbed | smollm2 | report``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from guided_ft.cli import Interrupted, main

PROGRAM = "python -m benchmarks.side_by_side"

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {PROGRAM} {line}" for line in lines)


class Suite(str, Enum):
    testbed = "testbed"
    smollm2 = "smollm2"
    testbed_fronts = "testbed-fronts"
    smollm2_fronts = "smollm2-fronts"
    report = "report"
    fronts = "fronts"


@app.command(
    epilog=_examples(
        "testbed --quick",
        "testbed arm=full,guided,random data_size=300 --processes 2",
        "smollm2 seed=1 --data path/to/data",
        "report",
    )
)
def bench(
    suite: Annotated[Suite, typer.Argument(help="What to run; report makes tables and plots of the rows there are.")],
    only: Annotated[
        list[str] | None, typer.Argument(metavar="FIELD=VALUE", help="Only these runs: arm=full,lora seed=1.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few tiny runs, to see that everything works.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each run (default: all cores).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many runs.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the files of relations, for the task of facts.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the rows (default: benchmarks/results).")] = None,
) -> None:
    """Compare ways of training: full, LoRA, peers, located and random choices. Continues where it was stopped."""
    from .training.run import parse_only, run_suite

    wanted = parse_only(only or [])
    folder = out or (Path("runs/bench-quick") if quick else Path("benchmarks/results"))
    if suite is Suite.report:
        from .units.report import write_report

        for path in write_report(folder, folder.parent):
            typer.echo(f"wrote {path}")
        return
    if suite is Suite.fronts:
        from .fronts.report import write_front_report

        for path in write_front_report(folder, folder.parent):
            typer.echo(f"wrote {path}")
        return
    try:
        run_suite(
            suite.value,
            folder,
            quick=quick,
            only=wanted,
            processes=processes,
            threads=threads,
            limit=limit,
            data=data,
            say=typer.echo,
        )
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {folder} can be continued with the same command") from None


if __name__ == "__main__":
    main(None, app, PROGRAM)
