"""Checkpoints that are known to be complete, and the newest one that is."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import GuidedError
from ..system.files import read_json, sha256, write_json

MARKER = "guided.json"
"""Written last into a checkpoint: its plan and the hashes of its files."""


_LOADED = (".safetensors", ".bin", ".pt", ".pth", ".index.json", "trainer_state.json", "adapter_config.json")
"""Endings of files that a trainer loads if they are there."""


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
