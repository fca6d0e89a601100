"""The command line. Every recipe is validated before anything heavy is imported.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from .. import __version__
from ..errors import GuidedError

# Plain text, plain tracebacks: rich would double the time of --help.
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

# typer raises click's errors or, by its version, its own copy of them; the base class of this one fits both.
UsageError: Any = typer.BadParameter.__bases__[0]


class Interrupted(Exception):
    """Control-C, as an exception that typer does not swallow."""


def examples(*lines: str) -> str:
    """The end of a command's help; a test runs each line."""
    return "\b\nExamples:\n" + "\n".join(f"  guided-ft {line}" for line in lines)


@app.callback(
    invoke_without_command=True,
    epilog=examples("run quickstart", "recipes", "check quickstart budget=1%", "show runs/quickstart"),
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
