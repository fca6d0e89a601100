"""How files are written and read: JSON, JSON lines and text (``arrays.py``: safetensors), written whole or not at all,
read with care.

What a library writes by itself (a checkpoint, an adapter, a GGUF file) goes through ``replacing``, or is sealed when it
is complete (``callback/resume.py``). Imports no torch.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import GuidedError

Json = dict[str, Any]
"""A JSON object: text keys, and whatever JSON holds: texts, numbers, true, false, null, lists and objects."""

MAX_BYTES = 1 << 30
"""Largest file of text that is read: far above any real record or data set, far below what would exhaust memory."""

AUTO_BYTES = 2 << 30
"""Size of a prefix cache whose size is not given."""

MEND = "make it again, or get an undamaged copy"
"""What helps with a damaged file of ours."""

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


_REFUSED = (
    (re.compile(r"No space left|os error 28|PytorchStreamWriter failed|file write failed"), errno.ENOSPC),
    (re.compile(r"Permission denied|os error 13|cannot be opened"), errno.EACCES),
    (re.compile(r"Read-only file system|os error 30"), errno.EROFS),
)
"""What libraries say, each in a class of its own, where the system refuses to write."""


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, a disk that is full or refuses is an OSError that names the path, whichever library it stopped."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).endswith(".tmp"):
            raise
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error
    except Exception as error:
        number = next((number for words, number in _REFUSED if words.search(str(error))), None)
        if number is None or isinstance(error, GuidedError):
            raise
        raise OSError(number, os.strerror(number), os.fspath(path)) from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` on success and vanishes on failure.

    A reader sees the old file or the new one, never a part: write, fsync, rename. A link stays one: what it points to
    is replaced. The new file is as open to others as the umask lets any be.
    """
    target = Path(path)
    with writing(target):
        target = Path(os.path.realpath(target)) if target.is_symlink() else target
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    # It is read by setting it; what another thread makes meanwhile is not opened to others by that.
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def write_text(path: str | os.PathLike[str], text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], data: object) -> None:
    """Write JSON; NaN and infinities are refused, because no other reader takes them."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], kind: str, version: int = 1) -> Json:
    """Read a JSON object that says ``"kind": kind, "version": version``. Raises GuidedError for anything else."""
    data = _parsed(path)
    if not isinstance(data, dict) or data.get("kind") != kind:
        raise GuidedError(f"{path}: not a {kind} file ({MEND})")
    if data.get("version") != version:
        found = json.dumps(data["version"]) if "version" in data else "none"
        raise GuidedError(
            f"{path}: a {kind} file of version {found}, and version {version} is read "
            "(use the guided_ft that wrote it, or make it again)"
        )
    return data


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """The kind that a JSON file says it is; None if it says none. Raises GuidedError for what is no JSON."""
    data = _parsed(path)
    kind = data.get("kind") if isinstance(data, dict) else None
    return kind if isinstance(kind, str) else None


def _parsed(path: str | os.PathLike[str]) -> Any:
    try:
        text = _read_bytes(path).decode("utf-8")
        return json.loads(text, parse_constant=_refuse_constant, parse_int=_read_integer)
    except (ValueError, RecursionError) as error:
        if isinstance(error, GuidedError):
            raise
        raise GuidedError(f"{path}: not valid JSON ({error}): {MEND}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _read_integer(digits: str) -> int:
    if len(digits) > 300:
        # No float holds it, and whoever divides by it or formats it would fail.
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text file. Raises GuidedError if it is missing, too large or not text."""
    try:
        return _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise GuidedError(f"{path}: not UTF-8 text (save it as UTF-8)") from None


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, Json]]:
    """Yield every object of a JSON-lines file with the number of its line.

    Raises:
        GuidedError: for a line that is no object, with its number.
    """
    for number, line in enumerate(lines(read_text(path).removeprefix("\ufeff")), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise GuidedError(f"{path}:{number}: not a JSON object (write one object per line)")
        yield number, row


def lines(text: str) -> list[str]:
    """Lines of a file: ``splitlines`` would also split at what JSON, and a text, may have inside a line."""
    return text.replace("\r\n", "\n").split("\n")


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    with opened(path, MAX_BYTES) as file:
        return file.read()


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], limit: int) -> Iterator[BinaryIO]:
    """Open a file to read it. Raises GuidedError if it is missing, or has more than ``limit`` bytes."""
    try:
        size = os.stat(path).st_size
        if size > limit:
            raise GuidedError(f"{path}: {size} bytes is more than the {limit} that are read")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise GuidedError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        if isinstance(error, GuidedError):
            raise
        raise GuidedError(f"{path!r}: cannot be read (a null character in its name)") from None


def sha256(path: Path) -> str:
    """Hash a file, of any size."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def digest(*parts: object) -> str:
    """Hash JSON data, bytes and numpy arrays to 16 hex digits."""
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            state.update(f"{part.dtype}{part.shape}".encode())
            part = np.ascontiguousarray(part).tobytes()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True, default=str).encode()
        state.update(hashlib.sha256(part).digest())
    return state.hexdigest()[:16]


def parse_size(size: str | int) -> int:
    """Read ``"500MB"``, ``"2GiB"`` or a number of bytes; ``"auto"`` is 2 GiB. Raises GuidedError otherwise."""
    if size == "auto":
        return AUTO_BYTES
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([a-z]*)", str(size).strip().lower())
    unit = _UNITS.get(found[2]) if found else None
    if found is None or unit is None or isinstance(size, bool) or not float(found[1]) * unit >= 1:
        raise GuidedError(f"prefix_cache: {size!r} is not a size (write auto, 500MB or 2GiB)")
    return int(float(found[1]) * unit)
