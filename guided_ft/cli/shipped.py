"""Commands on what comes with the package: recipes and scorers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import GuidedError
from .program import app, examples

if TYPE_CHECKING:
    from ..recipe.recipe import Data

recipes = typer.Typer(rich_markup_mode=None)
app.add_typer(recipes, name="recipes", epilog=examples("recipes", "recipes copy quickstart my.yaml"))


@recipes.callback(invoke_without_command=True)
def list_recipes(context: typer.Context) -> None:
    """List the shipped recipes by topic: what each does, where its examples come from, and how long it takes on one CPU
    core; or copy one to change it."""
    if context.invoked_subcommand is None:
        from ..recipe.finding import times, topic
        from ..recipe.recipe import Recipe, shipped

        known, timed = shipped(), times()
        width, last = max(map(len, known)), ""
        for name, path in known.items():
            if topic(path) != last:
                last = topic(path)
                typer.echo(f"\n{last.replace('_', ' ')}")
            recipe = Recipe.load(name)
            about = ", ".join(filter(None, [source(recipe.data), timed.get(name)]))
            typer.echo(f"  {name:<{width}}  {recipe.description} ({about})")
        typer.echo("\nminutes: on one CPU core, the control included; about: estimated")


@recipes.command(epilog=examples("recipes copy quickstart", "recipes copy quickstart my.yaml --force"))
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a shipped recipe.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="YAML file or folder.")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Overwrite DEST.")] = False,
) -> None:
    """Copy a shipped recipe to a file of your own; its runs are called as the file is."""
    from ..errors import pick
    from ..recipe.recipe import shipped
    from ..recipe.strict_yaml import dump
    from ..system.files import read_text, write_text

    source = pick(shipped(), name, "recipes")
    target = dest / source.name if dest.is_dir() else dest
    if target.suffix not in (".yaml", ".yml"):
        raise GuidedError(f"{target}: a recipe's file ends in .yaml (write {target}.yaml)")
    if target.exists() and not force:
        raise GuidedError(f"{target}: exists already (give another name, or --force)")
    named = dump({"name": target.stem})
    write_text(target, re.sub(r"^name:.*\n", lambda _: named, read_text(source), count=1, flags=re.MULTILINE))
    typer.echo(f"wrote {target}; run it with: guided-ft run {shlex.quote(str(target))}")


@app.command(epilog=examples("methods", "methods attribution"))
def methods(
    name: Annotated[str | None, typer.Argument(metavar="METHOD", help="One of them (default: all).")] = None,
) -> None:
    """List the scorers: what each scores (layers, heads, neurons), what it costs, and when to use it.

    F and B are forward and backward passes over the task; a two-sided map takes as many over the retain set.
    """
    from ..scorers.catalogue import CATALOGUE, find

    shown = CATALOGUE if name is None else {name: find(name)}
    widths = [max(map(len, shown)), max(len(method.cost) for method in shown.values())]
    for label, method in shown.items():
        kinds = "".join(kind[0].upper() if kind in method.kinds else "-" for kind in ("layer", "head", "neuron"))
        typer.echo(f"{label:<{widths[0]}}  {kinds}  {method.cost:<{widths[1]}}  {method.help}")
        if method.when:
            typer.echo(" " * (sum(widths) + 9) + f"-> {method.when}")


def source(data: Data) -> str:
    """Where a recipe's examples come from, in a few words."""
    if data.source == "file":
        return str(data.path)
    return f"{data.source} {data.name}" if data.source != "hub" else str(data.name)
