"""A folder for one process at a time; the claim ends with the process, however that ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

LOCK = "in-use.lock"
"""Holds the number of the process that works in the folder."""

_OURS: dict[Path, TextIO] = {}


def hold(folder: Path) -> str | None:
    """Take a folder for this process until ``let_go``; say which other process has it, or None if it is ours now.

    A folder that is ours already stays so. A folder that cannot be written, or of a file system without locks, is ours:
    whoever writes into it finds out.
    """
    folder = folder.resolve()
    if fcntl is None or folder in _OURS:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the folder is held
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        return f"process {holder}" if holder else "another process"
    except OSError:
        file.close()
        return None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    _OURS[folder] = file
    return None


def let_go(folder: Path) -> None:
    """Leave a folder to others."""
    file = _OURS.pop(folder.resolve(), None)
    if file is not None:
        # Not by closing alone: a process that was forked meanwhile has it open, too.
        fcntl.flock(file, fcntl.LOCK_UN)
        file.close()
