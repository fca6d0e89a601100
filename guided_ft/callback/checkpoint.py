"""Checkpoints that are known to be complete, and the newest one that is."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import GuidedError
from ..system.files import read_json, sha256, write_json

MARKER = "guided.json"
"""Written last into a checkpoint: its plan and the hashes of its files."""


def seal(folder: Path, plan_hash: str) -> None:
    """Mark a checkpoint as complete."""
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != MARKER}
    write_json(folder / MARKER, {"kind": "checkpoint", "version": 1, "plan": plan_hash, "files": files})


def fault(folder: Path, plan_hash: str | None = None) -> str | None:
    """Say what is wrong with a checkpoint, or None if it is complete (and of this plan)."""
    if not (folder / MARKER).is_file():
        return f"{MARKER} missing: the save was cut off"
    try:
        data = read_json(folder / MARKER, "checkpoint")
    except GuidedError:
        return f"{MARKER} damaged"
    for name, value in data.get("files", {}).items():
        if not (folder / name).is_file():
            return f"{name} missing"
        if sha256(folder / name) != value:
            return f"{name} damaged"
    if plan_hash is not None and data.get("plan") != plan_hash:
        return "it was made by another plan"
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
