"""Commands on recipes: run them whole or up to a stage, check them, and estimate what they need."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..system.signals import terminated_as_interrupted
from .program import Interrupted, app, examples

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, a YAML file, or a file of examples.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Keys to change, such as train.steps=50, or just steps=50."),
]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that the model's repository brings along.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress.")]


def _add_stage(name: str, until: str | None, summary: str, *lines: str) -> None:
    @app.command(name, help=summary, epilog=examples(*lines))
    def stage(
        recipe: RecipeName, overrides: Overrides = None, trust_remote_code: Trust = False, quiet: Quiet = False
    ) -> None:
        from ..recipe.recipe import Recipe

        checked = Recipe.load(recipe, overrides or [])
        try:
            from ..pipeline.pipeline import run

            with terminated_as_interrupted():
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
    "run recipes/maths/dpo_sums.yaml model=path/to/model --quiet",
)
_add_stage("localize", "localize", "Run a recipe up to the map.", "localize sums method=gradient")
_add_stage("select", "select", "Run a recipe up to what is chosen.", "select quickstart budget=1%")
_add_stage("train", "train", "Run a recipe up to the trained adapter.", "train quickstart steps=20 control=none")
_add_stage("evaluate", "evaluate", "Run a recipe up to the comparison of before and after.", "evaluate quickstart")


@app.command(epilog=examples("check quickstart", "check quickstart mode=lora rank=8"))
def check(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Validate a recipe and say what it would do."""
    from ..pipeline.preflight import preflight
    from ..recipe.recipe import Recipe

    r = Recipe.load(recipe, overrides or [])
    preflight(r, rows=True)
    length = f"{r.train.steps} steps" if r.train.epochs is None else f"{r.train.epochs:g} epochs"
    what = f"{r.train.trainer} {r.train.mode} of {r.model}, budget {r.select.budget}, {length}"
    typer.echo(f"ok: {r.name}: {what} -> {r.output_dir}")


@app.command(
    epilog=examples(
        "estimate quickstart",
        "estimate smollm2-135m-instruct --budget 2% --batch 8 --length 128",
        "estimate path/to/config.json --dtype nf4 --gradient-checkpointing --json",
    )
)
def estimate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, folder or config.json; or a recipe.")],
    budget: Annotated[
        str | None, typer.Option(help="Share or number of parameters to train (default: as in recipes).")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the base: float32, bfloat16, nf4 or int8.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples per forward pass (default: 8).")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Tokens per example (default: 128).")] = None,
    labelled: Annotated[float, typer.Option(help="Share of the tokens that have a label.")] = 1.0,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA that is compared with.")] = 8,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Recompute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what training would need: memory, file size and cost, from the configuration alone."""
    from ..estimate.estimate import estimate as work_out

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
