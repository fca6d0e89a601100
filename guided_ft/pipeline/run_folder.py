"""The folder of a run: whose it is, who works in it, and how a finished run is replaced by its successor.

Only what a run made is ever cleared. A finished run stays as it is while another recipe runs in its folder: that one
works in ``next/`` and takes its place when it is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ..errors import GuidedError
from ..system.files import Json, digest, read_json, sha256, write_json, write_text, writing

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

MARKER = ".guided-ft.json"
"""Written first into a run's folder: it says that a run made the folder, and which process works in it."""

NEXT = "next"
"""Where the successor of a finished run works."""

DONE = ".next-done"
"""What ``next`` is called from the moment when it is whole until all of it is in its place."""


@contextlib.contextmanager
def claimed(folder: Path, work: str = "stages/*.json") -> Iterator[Path]:
    """Make or take over the folder of a run, for this process alone.

    A folder that is new goes away again if an error comes before the first stage is done.

    Args:
        work: what there is of it once a stage is done.

    Raises:
        GuidedError: it holds files that no run made, or another process runs in it.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    fresh = bool(made) or not folder.is_dir() or not any(folder.iterdir())
    if not fresh:
        _check_made_by_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        try:
            if (folder / DONE).is_dir():
                _move_in(folder)
            yield folder
        except Exception:
            if fresh and not any(folder.glob(work)):
                for path in folder.iterdir():
                    remove(path)
                with contextlib.suppress(OSError):
                    for path in made:
                        path.rmdir()
            raise


@contextlib.contextmanager
def successor(home: Path) -> Iterator[Path]:
    """The folder for another recipe than that of the finished run in ``home``; one that is new goes away again if an
    error comes before it holds anything that ``home`` does not."""
    folder = home / NEXT
    fresh = not folder.exists()
    if not fresh:
        _check_made_by_run(folder)
    write_text(folder / MARKER, _mark(None))
    try:
        yield folder
    except Exception:
        known = [path.read_bytes() for path in _records(home)]
        if fresh and all(path.read_bytes() in known for path in _records(folder)):
            remove(folder)
        raise


@contextlib.contextmanager
def inside(run: Path, name: str) -> Iterator[Path]:
    """A folder of its own for other work in the folder of a run, which may be made for that, for this process alone.

    The run itself may go on in its folder meanwhile. What is new goes away again as with ``claimed``.

    Raises:
        GuidedError: the folder of the run holds files that no run made, or another process does this work.
    """
    if run.is_dir() and any(run.iterdir()):
        _check_made_by_run(run)
    fresh = not (run / MARKER).exists()
    if fresh:
        write_text(run / MARKER, _mark(None))
    try:
        with claimed(run / name, "*/stages/*.json") as folder:
            yield folder
    finally:
        if fresh and [path.name for path in run.iterdir()] == [MARKER]:
            remove(run)


def replace(home: Path) -> None:
    """Put the successor in the place of the finished run. A kill in between is made up for by the next ``claimed``."""
    # An empty one, where there is none: the control of the run before is none of this run.
    (home / NEXT / "control").mkdir(exist_ok=True)
    (home / NEXT).rename(home / DONE)
    _move_in(home)


def stage_entry(folder: Path, stage: str) -> Json | None:
    """The entry of a stage that is done; None if it is not done, or the file is not what was written."""
    path = folder / entry_name(stage)
    if not path.exists():
        return None
    try:
        found = read_json(path, "stage")
    except GuidedError:
        return None
    return found if found.pop("digest", None) == digest(found) else None


def keep_entry(folder: Path, stage: str, entry: Json) -> None:
    """Write what ``stage_entry`` reads. Raises ValueError for numbers that are not finite."""
    data = {"kind": "stage", "version": 1, **entry}
    write_json(folder / entry_name(stage), {**data, "digest": digest(data)})


def entry_name(stage: str) -> str:
    return f"stages/{stage}.json"


def hashes(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The sha256 of each file of these files and folders."""
    roots = [folder / name for name in names]
    paths = [path for root in roots for path in (sorted(root.rglob("*")) if root.is_dir() else [root])]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths if path.is_file()}


def bring(name: str, source: Path, target: Path) -> None:
    """Copy a file or folder from one run's folder to another."""
    if not (source / name).exists():
        return
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    remove(target / name)
    (shutil.copytree if (source / name).is_dir() else shutil.copy2)(source / name, target / name)


def remove(path: Path) -> None:
    """Whatever is there, a file or a folder, is there no more."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _move_in(home: Path) -> None:
    for path in sorted((home / DONE).iterdir()):
        if path.name == MARKER:
            path.unlink()
            continue
        remove(home / path.name)
        path.rename(home / path.name)
    (home / DONE).rmdir()
    with contextlib.suppress(OSError):
        (home / "control").rmdir()


def _records(folder: Path) -> list[Path]:
    return sorted((folder / "stages").glob("*.json"))


def _check_made_by_run(folder: Path) -> None:
    if (folder / MARKER).is_file():
        return
    # Earlier versions left no marker, but the records of their stages.
    for path in _records(folder):
        with contextlib.suppress(GuidedError):
            read_json(path, "stage")
            return
    raise GuidedError(f"output: {folder} holds files that no run made (give a new or empty folder: output=...)")


def _mark(process: int | None) -> str:
    return json.dumps({"kind": "run folder", "version": 1, "process": process}) + "\n"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder. The lock ends with the process, however that ends."""
    with _open_marker(folder) as file:
        if fcntl is not None:
            # A file system without locks is used without.
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise GuidedError(
                    f"output: {folder} is in use by {_holder(folder)} (wait for it, or give another folder: output=...)"
                ) from None
            except OSError:
                pass
        try:
            with writing(folder / MARKER):
                _rewrite(file, _mark(os.getpid()))
            yield
        finally:
            # On a full disk the process stays named: the lock, which is what counts, ends with this one.
            with contextlib.suppress(OSError):
                _rewrite(file, _mark(None))


def _open_marker(folder: Path) -> TextIO:
    with writing(folder / MARKER):
        return open(folder / MARKER, "a+", encoding="utf-8")


def _rewrite(file: TextIO, text: str) -> None:
    """In place: another file under this name would not be the locked one. Past its buffer, which a full disk would
    refuse once more when the file is closed."""
    file.truncate(0)
    os.write(file.fileno(), text.encode())


def _holder(folder: Path) -> str:
    with contextlib.suppress(GuidedError):
        return f"process {read_json(folder / MARKER, 'run folder').get('process')}"
    return "another process"
