"""What reading something from outside must not do: run code that it brings, start programs, call out, write elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "os.startfile")
_CALLS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.link", "os.symlink")
_LIBRARIES = (os.path.dirname(os.__file__), sys.prefix)

_active: list[Guard] = []


class Guard:
    """Notes what happens while it is on.

    Args:
        folders: where files may be written.
    """

    def __init__(self, folders: list[Path]) -> None:
        self.folders = [str(folder.resolve()) for folder in folders]
        self.seen: list[str] = []

    def note(self, event: str, args: tuple) -> None:
        if event == "pickle.find_class" or event in _PROGRAMS or event in _CALLS:
            self.seen.append(f"{event} {args!r:.80}")
        elif event == "exec" and not _of_a_library():
            self.seen.append(f"exec {args!r:.80}")
        elif (event in _CHANGES or (event == "open" and _writes(args))) and self._outside(args[0], args[-1]):
            self.seen.append(f"{event} {args!r:.120}")

    def _outside(self, path: Any, last: Any) -> bool:
        """Whether a path, which may begin at an open folder, as in ``shutil.rmtree``, is in none of the folders."""
        if not isinstance(path, str | bytes | os.PathLike):
            return False  # a file that is open already
        name = os.fsdecode(path)
        if not os.path.isabs(name) and isinstance(last, int) and os.path.isdir(f"/proc/self/fd/{last}"):
            name = os.path.join(os.readlink(f"/proc/self/fd/{last}"), name)
        place = os.path.realpath(name)
        return place != os.devnull and not any(
            f"{place}{os.sep}".startswith(f"{folder}{os.sep}") for folder in self.folders
        )


def _writes(args: tuple) -> bool:
    _, mode, flags = args
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(flags, int) else False


def _of_a_library() -> bool:
    """Whether code is run by the import system, or made by a library for itself, as dataclasses do."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<frozen importlib") or name.startswith(_LIBRARIES):
            return True
        if name == __file__:
            frame = frame.f_back
            continue
        return False
    return False


def _hook(event: str, args: tuple) -> None:
    if _active:
        _active[-1].note(event, args)


sys.addaudithook(_hook)


@contextmanager
def guarded(*folders: Path) -> Iterator[Guard]:
    """Inside, everything is noted in ``seen``. An audit hook cannot be taken off again, but it sleeps outside."""
    guard = Guard(list(folders))
    _active.append(guard)
    try:
        yield guard
    finally:
        _active.remove(guard)
