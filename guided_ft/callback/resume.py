"""What a trainer is to resume from is looked at before it loads anything.

A trainer loads weights and moments before it tells any callback, and takes the newest folder whatever is in it. So
``train`` of the one trainer that a callback belongs to is wrapped: it does what it did, from a checkpoint that was
found whole.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import GuidedError
from ..system import processes
from .checkpoint import checkpoints, fault

logger = logging.getLogger(__name__)


def guard_resuming(trainer: Any, plan_hash: Callable[[], str]) -> None:
    """Make ``trainer.train(resume_from_checkpoint=...)`` resume from a whole checkpoint of the plan, or refuse.

    Args:
        plan_hash: asked when a training begins.
    """
    if trainer is None or hasattr(trainer.train, "guarded_by"):
        return
    train = trainer.train

    @functools.wraps(train)
    def guarded(resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        if resume_from_checkpoint:
            # The first process looks for all: another one may see the folder a moment later.
            first = trainer.args.process_index == 0
            run = trainer.args.output_dir
            looked = _looked_for(resume_from_checkpoint, run, plan_hash()) if first else (None, "")
            found, told = processes.same(looked)
            if found is None:
                raise GuidedError(told)
            if told:
                logger.warning("%s", told)
            resume_from_checkpoint = found
        return train(resume_from_checkpoint, *args, **kwargs)

    guarded.guarded_by = guard_resuming  # type: ignore[attr-defined]
    trainer.train = guarded


def _looked_for(asked: Any, run: str, plan_hash: str) -> tuple[str | None, str]:
    """The checkpoint to resume from, or None; and what there is to tell."""
    if asked is not True:
        folder = Path(asked)
        wrong = fault(folder, plan_hash)
        return (None, refusal(folder, wrong, plan_hash)) if wrong else (str(folder), "")
    there = checkpoints(Path(run))
    if not there:
        return None, f"{run}: there is no checkpoint to resume from (leave resume_from_checkpoint out to start afresh)"
    faults: dict[Path, str] = {}
    for folder in reversed(there):
        wrong = fault(folder, plan_hash)
        if wrong is None:
            told = [f"{path.name} cannot be resumed ({why}){_set_aside(path)}" for path, why in faults.items()]
            return str(folder), "; ".join([*told, f"resumed from {folder.name}"]) if faults else ""
        faults[folder] = wrong
    return None, refusal(there[-1], faults[there[-1]], None)


def _set_aside(folder: Path) -> str:
    """Rename a checkpoint, since the trainer would save among what is in it; say how."""
    for number in range(1, 100):
        target = folder.with_name(f"set-aside{number}-{folder.name}")
        if not target.exists():
            try:
                folder.rename(target)
            except OSError:
                break
            return f" and is {target.name} now"
    return ""


def refusal(folder: Path, wrong: str, plan_hash: str | None) -> str:
    """What is said of a checkpoint with a fault: which one would do instead, if its plan is known."""
    good = None
    if plan_hash is not None:
        good = next((path for path in reversed(checkpoints(folder.parent)) if fault(path, plan_hash) is None), None)
    mend = f"resume from {good.name}" if good else "start afresh"
    return f"{folder.name} cannot be resumed ({wrong}): {mend}"
