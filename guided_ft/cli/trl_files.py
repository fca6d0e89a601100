"""Commands that take a YAML file of TRL's, as ``trl sft`` and ``trl dpo`` do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .program import Interrupted, app, examples
from .stages import Trust

Config = Annotated[Path, typer.Option("--config", metavar="TRL.YAML", help="Keys of TRL's, and a guided: block.")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Keys to change: learning_rate=1e-4, guided.budget=1%."),
]


def _add(trainer: str, summary: str) -> None:
    @app.command(
        trainer,
        help=summary,
        epilog=examples(f"{trainer} --config trl.yaml", f"{trainer} --config trl.yaml max_steps=50"),
    )
    def command(config: Config, changes: Changes = None, trust_remote_code: Trust = False) -> None:
        from ..recipe.trl_config import TrlConfig

        checked = TrlConfig.load(config, trainer, changes or [])
        try:
            from ..pipeline.drop_in import train

            callback, folder = train(checked, trust_remote_code)
        except KeyboardInterrupt:
            raise Interrupted("interrupted: resume_from_checkpoint=FOLDER goes on from a saved checkpoint") from None
        typer.echo(f"{callback.certificate}; saved in {folder}")


_add("sft", "Fine-tune as trl sft --config does, training only what a guided: block chooses.")
_add("dpo", "Train on preferences as trl dpo --config does, only what a guided: block chooses.")
