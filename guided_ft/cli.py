"""The command line. Every recipe is validated before anything heavy is imported.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from . import __version__
from .errors import GuidedError

# Plain text, plain tracebacks: rich would double the time of --help.
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
recipes = typer.Typer(rich_markup_mode=None)

# typer raises click's errors or, by its version, its own copy of them; the base class of this one fits both.
UsageError: Any = typer.BadParameter.__bases__[0]


class Interrupted(Exception):
    """Control-C, as an exception that typer does not swallow."""


def _examples(*lines: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  guided-ft {line}" for line in lines)


# -- recipes that run -------------------------------------------------------------------------------------------------
RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, a YAML file, or a .jsonl file of examples.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Keys to change, such as train.steps=50, or just steps=50."),
]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that the model's repository brings along.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Folder of a run, such as runs/quickstart.")]


def _add_stage(name: str, until: str | None, summary: str, *examples: str) -> None:
    @app.command(name, help=summary, epilog=_examples(*examples))
    def stage(
        recipe: RecipeName, overrides: Overrides = None, trust_remote_code: Trust = False, quiet: Quiet = False
    ) -> None:
        from .recipe.recipe import Recipe

        checked = Recipe.load(recipe, overrides or [])
        try:
            from .pipeline.pipeline import run

            run(checked, until=until, trust_remote_code=trust_remote_code, quiet=quiet)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: {checked.output_dir} can be continued with the same command") from None


_add_stage(
    "run",
    None,
    "Run a recipe, from the scores to the report.",
    "run quickstart",
    "run quickstart budget=1% steps=50",
    "run tickets.jsonl steps=50",
    "run recipes/dpo_sums.yaml model=path/to/model --quiet",
)
_add_stage(
    "localize", "localize", "Run a recipe up to the scores of components.", "localize quickstart method=gradient"
)
_add_stage("select", "select", "Run a recipe up to the choice of components.", "select quickstart budget=1%")
_add_stage("train", "train", "Run a recipe up to the trained adapter.", "train quickstart steps=20 control=none")
_add_stage("evaluate", "evaluate", "Run a recipe up to the comparison of before and after.", "evaluate quickstart")


@app.command(epilog=_examples("check quickstart", "check quickstart mode=lora rank=8"))
def check(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Validate a recipe and say what it would do."""
    from .recipe.recipe import Recipe

    r = Recipe.load(recipe, overrides or [])
    what = f"{r.train.trainer} {r.train.mode} of {r.model}, budget {r.select.budget}, {r.train.steps} steps"
    typer.echo(f"ok: {r.name}: {what} -> {r.output_dir}")


@app.command(
    epilog=_examples(
        "estimate quickstart",
        "estimate smollm2-135m-instruct --budget 2% --batch 8 --length 128",
        "estimate path/to/config.json --dtype nf4 --gradient-checkpointing --json",
    )
)
def estimate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, folder or config.json; or a recipe.")],
    budget: Annotated[str | None, typer.Option(help="Share or number of parameters to train (default: 2%).")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the base: float32, bfloat16, nf4 or int8.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples per forward pass (default: 8).")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Tokens per example (default: 128).")] = None,
    labelled: Annotated[float, typer.Option(help="Share of the tokens that have a label.")] = 1.0,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA that is compared with.")] = 8,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Recompute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what training would need: memory, file size and cost, from the configuration alone."""
    from .estimate.estimate import estimate as work_out

    found = work_out(
        model,
        budget,
        dtype=dtype,
        rows=batch,
        length=length,
        labelled=labelled,
        rank=rank,
        checkpointing=gradient_checkpointing,
    )
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))


# -- finished runs ----------------------------------------------------------------------------------------------------
@app.command(epilog=_examples("report runs/quickstart"))
def report(run_folder: RunFolder) -> None:
    """Write report.html again from a run's run.json."""
    from .report import write_report

    typer.echo(f"wrote {write_report(_run_json(run_folder).parent)}")


@app.command(epilog=_examples("show runs/quickstart"))
def show(run_folder: RunFolder) -> None:
    """Print what a run found."""
    from .report import story
    from .system.files import read_json

    typer.echo(story(read_json(_run_json(run_folder), "run")))


def _run_json(folder: Path) -> Path:
    path = folder / "run.json"
    if not path.is_file():
        raise GuidedError(f"{folder}: no run.json in it (give the folder of a finished run)")
    return path


# -- shipped recipes --------------------------------------------------------------------------------------------------
app.add_typer(recipes, name="recipes", epilog=_examples("recipes", "recipes copy quickstart my.yaml"))


@recipes.callback(invoke_without_command=True)
def list_recipes(context: typer.Context) -> None:
    """List the shipped recipes, or copy one to change it."""
    if context.invoked_subcommand is None:
        from .recipe.recipe import Recipe, shipped

        known = shipped()
        for name in known:
            typer.echo(f"{name:<{max(map(len, known))}}  {Recipe.load(name).description}")


@recipes.command(epilog=_examples("recipes copy quickstart", "recipes copy quickstart my.yaml --force"))
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a shipped recipe.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="YAML file or folder.")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Overwrite DEST.")] = False,
) -> None:
    """Copy a shipped recipe to a file of your own."""
    from .errors import pick
    from .recipe.recipe import shipped
    from .system.files import read_text, write_text

    source = pick(shipped(), name, "recipes")
    target = dest / source.name if dest.is_dir() else dest
    if target.suffix not in (".yaml", ".yml"):
        raise GuidedError(f"{target}: a recipe's file ends in .yaml (write {target}.yaml)")
    if target.exists() and not force:
        raise GuidedError(f"{target}: exists already (give another name, or --force)")
    write_text(target, read_text(source))
    typer.echo(f"wrote {target}; run it with: guided-ft run {target}")


# -- the program ------------------------------------------------------------------------------------------------------
@app.callback(
    invoke_without_command=True,
    epilog=_examples("run quickstart", "recipes", "check quickstart budget=1%", "show runs/quickstart"),
)
def program(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Find the parts of a language model that matter for a task, train only those, and prove it."""
    if version:
        typer.echo(f"guided-ft {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None, app: typer.Typer = app, name: str = "guided-ft") -> NoReturn:
    """Run a command line and leave with its exit code; only unexpected errors come out as tracebacks."""
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments, prog_name=name, standalone_mode=False)
    except UsageError as error:
        program = error.ctx.command_path if error.ctx else name
        message = " ".join(error.format_message().split()).removesuffix(".")
        _stop(2, f"{program}: {message} (see {program} --help)")
    except GuidedError as error:
        _stop(2, str(error))
    except OSError as error:
        # What the machine refuses (a folder that is a file, a full disk) is no bug of ours.
        place = error.filename2 or error.filename or name
        _stop(2, " ".join(f"{place}: {error.strerror or error} (check the path, or give another)".split()))
    except Interrupted as error:
        _stop(130, str(error))
    sys.exit(code if isinstance(code, int) else 0)


def _stop(code: int, message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)
