"""How an interrupted training goes on: with the same plan, from the newest checkpoint that is whole.

The plan that a callback has made lies in ``output_dir/_guided``, under a digest of everything that it follows from
(``keep``, ``kept``). A checkpoint is sealed when it is complete (``seal``, ``fault``). A trainer loads weights and
moments before it tells any callback, and takes the newest folder whatever is in it; so ``train`` of the one trainer
that a callback belongs to is wrapped (``guard_resuming``): it does what it did, from a checkpoint found whole.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ..errors import GuidedError
from ..plan.plan import Plan
from ..system import processes
from ..system.files import read_json, sha256, write_json

logger = logging.getLogger(__name__)

PLAN, REQUEST = "plan.json", "request.json"

MARKER = "guided.json"
"""Written last into a checkpoint: its plan and the hashes of its files."""

_LOADED = (".safetensors", ".bin", ".pt", ".pth", ".index.json", "trainer_state.json", "adapter_config.json")
"""Endings of files that a trainer loads if they are there."""


# -- the plan ----------------------------------------------------------------------------------------------------------
def keep(plan: Plan, folder: Path, request: str) -> None:
    """Write the plan and, last, the digest of everything that it follows from."""
    plan.save(folder / PLAN)
    write_json(folder / REQUEST, {"kind": "request", "version": 1, "request": request, "plan": plan.hash})


def kept(folder: Path, request: str) -> Plan | None:
    """The plan that was kept for this request; None if there is none, or if another one lies there."""
    before = read_json(folder / REQUEST, "request") if (folder / REQUEST).exists() else {}
    if before.get("request") != request:
        return None
    plan = Plan.load(folder / PLAN)
    # A callback with a ready plan may have written its own there since.
    return plan if plan.hash == before.get("plan") else None


# -- checkpoints -------------------------------------------------------------------------------------------------------
def seal(folder: Path, plan_hash: str) -> None:
    """Mark a checkpoint as complete."""
    files = {name: sha256(folder / name) for name in _files(folder)}
    write_json(folder / MARKER, {"kind": "checkpoint", "version": 1, "plan": plan_hash, "files": files})


def fault(folder: Path, plan_hash: str | None = None) -> str | None:
    """Say what is wrong with a checkpoint, or None if it is complete (and of this plan)."""
    if not folder.is_dir():
        return "there is no such folder"
    if not (folder / MARKER).is_file():
        return f"{MARKER} missing: it was saved without GuidedCallback, or its save was cut off"
    try:
        data = read_json(folder / MARKER, "checkpoint")
    except GuidedError:
        return f"{MARKER} damaged"
    files = data.get("files")
    if not isinstance(files, dict) or not all(_plain(name) for name in files):
        return f"{MARKER} damaged"
    # The other plan comes first: its files are not expected to fit.
    if plan_hash is not None and data.get("plan") != plan_hash:
        return "it was made by another plan"
    for name, value in files.items():
        wrong = _wrong(folder / name, value)
        if wrong:
            return f"{name} {wrong}"
    added = next((name for name in _files(folder) if name not in files and name.endswith(_LOADED)), None)
    if added:
        return f"{added} was put in after it was saved"
    return _lacking(files)


def _files(folder: Path) -> list[str]:
    """Names of the files in a checkpoint, those of its folders too: sharded trainings keep theirs there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return [path.relative_to(folder).as_posix() for path in paths]


def _plain(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _wrong(path: Path, expected: str) -> str | None:
    if not path.is_file():
        return "missing"
    try:
        return None if sha256(path) == expected else "damaged"
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _lacking(files: dict[str, str]) -> str | None:
    """What a trainer would begin anew without a word."""
    for what, starts in {
        "trainer_state.json": ("trainer_state.json",),
        "optimizer": ("optimizer", "global_step"),
    }.items():
        if not any(name.startswith(starts) for name in files):
            return f"it holds no {what} (was it saved with save_only_model=True?)"
    return None


def newest_complete(run: Path, plan_hash: str | None = None) -> Path | None:
    """The newest checkpoint of a run that is complete; None if there is none."""
    for folder in reversed(checkpoints(run)):
        if fault(folder, plan_hash) is None:
            return folder
    return None


def checkpoints(run: Path) -> list[Path]:
    """All checkpoint folders of a run, oldest first."""
    found = [
        (int(m[1]), path) for path in run.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    return [path for _, path in sorted(found)]


# -- the trainer -------------------------------------------------------------------------------------------------------
def guard_resuming(trainer: Any, plan_hash: Callable[[], str]) -> None:
    """Make ``trainer.train(resume_from_checkpoint=...)`` resume from a whole checkpoint of the plan, or refuse.

    Args:
        plan_hash: asked when a training begins.
    """
    if trainer is None or hasattr(trainer.train, "guarded_by"):
        return
    train = trainer.train

    @functools.wraps(train)
    def guarded(resume_from_checkpoint: str | bool | None = None, *args: object, **kwargs: object) -> object:
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


def _looked_for(asked: str | Literal[True], run: str, plan_hash: str) -> tuple[str | None, str]:
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
