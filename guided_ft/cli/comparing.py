"""The command that compares ways of training."""

from __future__ import annotations

from typing import Annotated

import typer

from .program import Interrupted, app, examples
from .stages import Quiet, RecipeName, Trust


@app.command(
    epilog=examples(
        "compare quickstart --quick",
        "compare tickets.jsonl arms=lora,located,random seeds=0,1,2",
        "compare quickstart arms=full,located rates=x0.3,x1,x3 budget=1%",
        "compare quickstart arms=located,random mode=slice",
    )
)
def compare(
    recipe: RecipeName,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[arms=...] [rates=...] [seeds=...] [KEY=VALUE]",
            help="Ways of training (full, lora, located, random; also subspace, lora-fa), learning rates (factors such "
            "as x0.3 on what suits each way, or 1e-4), seeds; and keys of the recipe to change.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few steps, rates and examples, to try it out.")] = False,
    trust_remote_code: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Train a recipe's model in several ways, at several rates each: score, forgetting, time, memory, file size.

    Continues where it was stopped.
    """
    from ..pipeline.compare.asked import WORDS, Asked, split
    from ..recipe.recipe import Recipe

    own, overrides = split(words or [])
    checked = Recipe.load(recipe, overrides)
    # Mistakes are told before anything heavy is imported.
    arms, rates, seeds = (own.get(word) for word in WORDS)
    home = Asked.of(checked, arms, rates, seeds, quick).home
    try:
        from ..pipeline.compare.compare import compare as run

        run(checked, arms, rates, seeds, quick=quick, trust_remote_code=trust_remote_code, quiet=quiet)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {home} can be continued with the same command") from None
