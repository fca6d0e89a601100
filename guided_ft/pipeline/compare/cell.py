"""One cell of a comparison, an arm at a rate with a seed: trained, saved, measured, and its figures kept."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import Diverged, GuidedError
from ...system.files import Json, digest, read_json, write_json
from .asked import Asked, rate_of
from .base import Base, in_mode

if TYPE_CHECKING:
    from ..stages import Run

RESULT = "result.json"


@dataclass(frozen=True)
class Cell:
    """What tells one run from another."""

    arm: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """The name of the cell's folder."""
        return f"{self.arm}-{self.rate:g}-s{self.seed}"

    def key(self, base: Base) -> str:
        """A digest of what its result follows from."""
        return digest(base.key, base.inputs, base.arms[self.arm].inputs, self.arm, self.rate, self.seed)

    def result(self, home: Path, base: Base) -> Json | None:
        """What the cell found; None if it is not done, or was done for other settings or measured by other metrics."""
        try:
            found = read_json(self.folder(home) / RESULT, "cell")
        except GuidedError:
            return None
        measured = [found[part] for part in ("validation", "test") if part in found]
        alike = all(scores.keys() == base.before.keys() for scores in measured)
        return found if alike and found.get("key") == self.key(base) else None

    def folder(self, home: Path) -> Path:
        return home / "cells" / self.name


def cells(asked: Asked, base: Base) -> list[Cell]:
    """All cells that were asked for, arm by arm, the arm's own rule first: a comparison that is cut short has that."""
    found = []
    for arm in asked.arms:
        rule = base.arms[arm].rule
        if not base.arms[arm].note:
            rates = sorted({rate_of(text, rule) for text in asked.rates}, key=lambda rate: abs(math.log(rate / rule)))
            found += [Cell(arm, rate, seed) for rate in rates for seed in asked.seeds]
    return found


def run_cell(run: Run, base: Base, cell: Cell, home: Path) -> None:
    """Do a cell and write its ``result.json``; the weights are measured and removed.

    A training that diverges, at a rate too high, is a result too: its line is kept. Nothing else that fails is, as it
    may have passed when the cell is tried again.

    Raises:
        GuidedError: what the model, its files or the training refused.
    """
    folder = cell.folder(home)
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    result: Json = {"kind": "cell", "version": 1, "key": cell.key(base)}
    result |= {"arm": cell.arm, "rate": cell.rate, "seed": cell.seed}
    try:
        found: Json = {"failed": None, **_measured(run, base, cell, folder)}
        if not all(math.isfinite(value) for value in _numbers(found)):
            found = {"failed": "what was measured is not finite"}
    except Diverged as error:
        found = {"failed": str(error)}
    for path in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    result |= found | {"seconds": round(time.perf_counter() - began, 2)}
    write_json(folder / RESULT, result)


def _measured(run: Run, base: Base, cell: Cell, folder: Path) -> Json:
    from ...system.machine import peak_bytes, reset_peak
    from .. import stages
    from ..training import train
    from .arms import ARMS
    from .parts import measured, parts

    validation, test = parts(run, base.validation)
    rows = validation.rows[0]
    arm = ARMS[cell.arm]
    plan = arm.plan(in_mode(run, arm.mode), cell.seed)
    data = base.recipe | {"seed": cell.seed}
    data["train"] = data["train"] | {"learning_rate": cell.rate}
    settings = run.recipe.train
    epochs = base.steps * settings.batch_size * settings.accumulate / len(rows)
    if epochs <= 1 or not plan.first_layer:
        # The cache would find this out by itself, and say so in every cell.
        data["train"]["prefix_cache"] = "none"
    model = run.model()
    reset_peak()
    recipe = type(run.recipe).from_dict(data)
    trained = train(recipe, plan, rows, stages.probe(run), model, run.tokenizer, folder, None)
    peak = peak_bytes()
    del model
    tuned, reference = stages.tuned(run, folder)
    scores, kept = measured(test, tuned, reference)
    return {
        "test": scores,
        "validation": measured(validation, tuned, reference)[0],
        "retention": kept,
        "training_seconds": trained["seconds"],
        "peak_bytes": peak,
        "file_bytes": sum(path.stat().st_size for path in (folder / "adapter").glob("*.safetensors")),
        "trainable": trained["trainable"],
        "last_loss": trained["loss"][-1][1],
    }


def _numbers(found: Json) -> list[float]:
    parts = [found, *(found[part] for part in ("validation", "test", "retention"))]
    return [value for part in parts for value in part.values() if isinstance(value, float)]
