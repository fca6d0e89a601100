"""Take the model of a run elsewhere: export it, or push it to the Hub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import GuidedError, pick
from ..export import merged, to_gguf, to_lora
from ..export.hub import push_folder
from .finished import Finished

FORMS = ("lora", "merged", "gguf")


def export(run: Finished, form: str, out: Path | None = None) -> Path:
    """Write the trained model in another form.

    Args:
        form: ``lora``: a stock LoRA of one rank; ``merged``: a plain checkpoint; ``gguf``: one file for llama.cpp.
        out: a folder, or the file of ``gguf``; None: in ``export/`` of the run.

    Raises:
        GuidedError: if the place is taken, or the model has no such form.
    """
    write = pick(_WRITERS, form, "form")
    inside = f"{run.recipe.name}.gguf" if form == "gguf" else form
    target = out if out is not None else run.folder / "export" / inside
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise GuidedError(f"{target}: exists already (remove it, or name another place with --out)")
    target.parent.mkdir(parents=True, exist_ok=True)
    write(run, target)
    return target


def push(run: Finished, repo_id: str, form: str | None = None, *, private: bool | None = None) -> str:
    """Upload the adapter as it was saved, or the model in another form; return the address of the commit."""
    if form is None:
        return push_folder(run.saved, repo_id, private=private)
    with tempfile.TemporaryDirectory() as folder:
        made = export(run, form, Path(folder, f"{run.recipe.name}.gguf" if form == "gguf" else form))
        return push_folder(made if made.is_dir() else made.parent, repo_id, private=private)


def _lora(run: Finished, target: Path) -> None:
    if run.whole:
        raise GuidedError(
            f"lora: mode {run.recipe.train.mode} trained the weights in place, so there is no LoRA (write --merged)"
        )
    to_lora(run.model, target, tokenizer=run.tokenizer, plan=run.plan)


def _merged(run: Finished, target: Path) -> None:
    if run.whole:
        shutil.copytree(run.saved, target, dirs_exist_ok=True)
    else:
        merged(run.model, target, run.tokenizer)


def _gguf(run: Finished, target: Path) -> None:
    to_gguf(run.model, run.tokenizer, target)


_WRITERS: dict[str, Callable[[Finished, Path], None]] = dict(zip(FORMS, (_lora, _merged, _gguf), strict=True))
