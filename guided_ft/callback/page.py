"""The report page of a trainer that guided_ft did not build, from what the callback saw."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..anatomy import base_model
from ..errors import GuidedError
from ..plan.plan import Plan
from ..report.page import write_report
from ..report.record import checked
from ..selection.chosen import Chosen
from ..selection.scoremap import Meta, ScoreMap
from ..system.files import Json, write_json
from ..system.machine import machine, peak_bytes, versions
from ..task.task import Task
from .certify import Certificate
from .guarded import kept_in

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerState, TrainingArguments

    from ..plan.modes.located import Located

_SPEEDS = ("_runtime", "_per_second", "_time")
"""Endings of what an evaluation logs that measure the machine, not the model."""


_SECRET = re.compile(r"(hub|hf|api|auth|access)\w*[-_](token|key)$|password$|secret$", re.IGNORECASE)
"""Options whose values open an account."""

_TOKEN = re.compile(r"\b(hf|sk|wandb)[_-][\w-]{8}")
"""What such values look like."""


@dataclass(frozen=True)
class Seen:
    """What a callback is shown when training begins. ``state`` goes on changing: its history is read at the end.

    Args:
        args: a TrainingArguments.
        state: the TrainerState.
        model: the one that is trained.
        rows: how many there are to train on; None: unknown.
    """

    args: TrainingArguments
    state: TrainerState
    model: str
    rows: int | None

    @classmethod
    def of(cls, args: TrainingArguments, state: TrainerState, model: nn.Module, loader: object) -> Seen:
        dataset = getattr(loader, "dataset", None)
        rows = len(dataset) if isinstance(dataset, Sized) else None
        base = base_model(model)
        return cls(args, state, str(getattr(base, "name_or_path", "") or base.config.model_type), rows)


def write(
    folder: str | os.PathLike[str],
    plan: Plan,
    scores: ScoreMap | Located | None,
    task: Task | None,
    certificate: Certificate | None,
    seen: Seen | None,
) -> Path:
    """Write ``report.html`` into a folder, and what it is made of: ``run.json``, ``plan.json``, ``selection.json`` and
    the map.

    Raises:
        GuidedError: nothing was trained yet, or a recipe ran in the folder.
    """
    if seen is None or certificate is None:
        raise GuidedError("report: nothing was trained yet (call trainer.train() first)")
    selection = cast(Chosen, plan.selection)
    home = Path(folder)
    if (home / "run.json").is_file() and (home / "recipe.yaml").is_file():
        raise GuidedError(f"report: {home} is the folder of a recipe's run (name another folder)")
    kept = kept_in(seen.args) / "scores.safetensors"
    if scores is None and task is not None and kept.is_file():
        # A resumed run takes its plan from before; the map lies beside it.
        scores = ScoreMap.load(kept)
    # Of directions the page shows what they say about units.
    scores = scores if scores is None or isinstance(scores, ScoreMap) else scores.scores
    if scores is not None:
        scores.save(home / "scores.safetensors")
    selection.save(home / "selection.json")
    plan.save(home / "plan.json")
    run = checked(_record(home, plan, selection, scores, task, certificate, seen))
    write_json(home / "run.json", run.to_dict())
    return write_report(home)


def _record(
    home: Path,
    plan: Plan,
    selection: Chosen,
    scores: ScoreMap | None,
    task: Task | None,
    certificate: Certificate,
    seen: Seen,
) -> Json:
    meta = scores.meta if scores is not None else Meta()
    retain = meta.get("retain")
    history, how = seen.state.log_history, selection.how
    total = selection.anatomy.num_parameters
    spent = [entry["train_runtime"] for entry in history if "train_runtime" in entry]
    seconds = {"localize": meta.get("seconds"), "train": spent[-1] if spent else None}
    return {
        "kind": "run",
        "version": 1,
        "name": home.resolve().name,
        "command": shlex.join(["python", *_shown(sys.argv)]),
        "model": seen.model,
        "task": {
            "name": task.name if task is not None else "the trainer's data",
            "train": seen.rows or 0,
            "test": 0,
            "hash": task.hash if task is not None else "",
        },
        "method": str(meta.get("method") or how.method or "a plan of one's own"),
        "mapped": scores is not None,
        "retain": retain and retain["name"],
        "mode": plan.mode,
        "trainer": type(seen.args).__name__.removesuffix("Config"),
        "budget": how.budget,
        "trainable": plan.num_parameters,
        "total": total,
        "selected": {kind: n for kind, n in selection.counts().items() if n},
        "before": {},
        "after": _measured(history, seen),
        "loss": [[entry["step"], entry["loss"]] for entry in history if "loss" in entry],
        "frozen": {"identical": certificate.identical, "total": certificate.total},
        "checks": [
            {
                "name": "frozen tensors are bit-identical",
                "ok": certificate.ok,
                "detail": f"{certificate.identical} of {certificate.total}",
            }
        ],
        "seconds": {stage: value for stage, value in seconds.items() if value is not None},
        "peak_bytes": peak_bytes(),
        "versions": versions(),
        "machine": machine(),
        "seed": seen.args.seed,
    }


def _shown(words: Iterable[str]) -> Iterator[str]:
    """The words of a command line without what opens an account: pages are passed on."""
    hidden = False
    for word in words:
        name, given, value = word.partition("=")
        secret = _SECRET.search(name) is not None
        if given and (secret or _TOKEN.search(value)):
            yield f"{name}=***"
        else:
            yield "***" if hidden or _TOKEN.search(word) else word
        hidden = secret and not given and word.startswith("-")


def _measured(history: list[dict[str, float]], seen: Seen) -> dict[str, float]:
    """What the last evaluations measured, one of each set, of the model that there is: after the end of training, or at
    the step whose weights were kept."""
    evaluated = [entry for entry in history if _prefix(entry)]
    end = max((i for i, entry in enumerate(history) if "train_runtime" in entry), default=0)
    later = [entry for entry in history[end:] if _prefix(entry)]
    best = seen.state.best_global_step if seen.args.load_best_model_at_end else None
    step = best if best and not later else evaluated[-1]["step"] if evaluated else None
    return {
        key: value
        for entry in later or [entry for entry in evaluated if entry["step"] == step]
        for key, value in entry.items()
        if key.startswith(_prefix(entry)) and not key.endswith(_SPEEDS) and isinstance(value, int | float)
    }


def _prefix(entry: dict[str, float]) -> str:
    """How the metrics of an evaluation begin, by the time that each of them logs; empty: it is none."""
    found = [key.removesuffix("runtime") for key in entry if key.endswith("_runtime") and key != "train_runtime"]
    return found[0] if found else ""
