"""A recipe that runs in seconds: a tiny model from a folder, sums from a file."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from families import make

from guided_ft import run
from guided_ft.recipe.recipe import Recipe


def recipe(folder: Path, name: str = "run", family: str = "llama", **changes: Any) -> Recipe:
    """Write model and data once, and return a recipe on them; ``changes`` are sections or top-level keys."""
    base, rows = folder / f"base-{family}", folder / "rows.jsonl"
    if not base.exists():
        make(family).save_pretrained(base)
        tiny.tokenizer().save_pretrained(base)
    preference = changes.get("train", {}).get("trainer") == "dpo"
    rows = folder / ("pairs.jsonl" if preference else "sums.jsonl")
    rows.write_text("".join(json.dumps(row) + "\n" for row in (tiny.pairs(40) if preference else tiny.sums(40))))
    data = {"source": "file", "path": str(rows), "train": 24, "test": 8}
    # Of units: what most tests of a run ask about.
    train = {"mode": "slice", "steps": 6, "batch_size": 4, "save_steps": 2, "learning_rate": 1e-2} | changes.pop(
        "train", {}
    )
    settings = {
        "name": name,
        "model": str(base),
        "output": str(folder / name),
        "data": data,
        "localize": {"examples": 8} | changes.pop("localize", {}),
        "select": {"budget": "15%"} | changes.pop("select", {}),
        "train": train,
        "evaluate": {"retention_examples": 4, "retention_tokens": 12} | changes.pop("evaluate", {}),
        **changes,
    }
    return Recipe.from_dict(settings)


def again(finished: Path, folder: Path, **changes: Any) -> Recipe:
    """A recipe on the model and data of a finished run (``finished / "run"``), with a copy of it in ``folder / "run"``."""
    shutil.copytree(finished / "run", folder / "run")
    return recipe(finished, **{"output": str(folder / "run"), **changes})


def cut(asked: Recipe, quiet: bool = True) -> None:
    """Run to the last step of training, and stop before what came of it is saved: the checkpoints stay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guided_ft.pipeline.training._save", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(asked, quiet=quiet)


def adapter(folder: Path) -> str:
    files = sorted((folder / "adapter").glob("*.safetensors"))
    assert files
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
