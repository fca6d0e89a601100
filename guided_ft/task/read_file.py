"""Files of rows by their endings: JSON lines, JSON, CSV, plain text, Parquet. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

from ..errors import GuidedError, pick
from ..system.files import MAX_BYTES, lines, read_jsonl, read_text
from .classes import named_classes, parquet_class_names
from .formats import recognise

Numbered = Iterator[tuple[str, dict[str, Any]]]
"""What messages call a row (file and line, or file and row), and the row."""


def read_file(path: str | os.PathLike[str]) -> Numbered:
    """Yield the rows of a file, as they are, each with the name that messages give it.

    Raises:
        GuidedError: for a file that is missing, of an unknown ending, or not what its ending says, with the line.
    """
    text = os.fspath(path)
    return pick(_READERS, PurePath(text).suffix.lower(), f"{text}: file ending")(text)


def _jsonl(path: str) -> Numbered:
    return ((f"{path}:{number}", row) for number, row in read_jsonl(path) if row)


def _json(path: str) -> Numbered:
    text = _text(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{") and "Extra data" in str(error):
            yield from _jsonl(path)  # JSON lines under another name
            return
        line = getattr(error, "lineno", 0)
        raise GuidedError(f"{path}{f':{line}' if line else ''}: not valid JSON ({error})") from None
    if isinstance(data, dict):
        inner = {k: v for k, v in data.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
        alone = not inner or _is_row(data, {*inner})
        data = [data] if alone else next(iter(inner.values())) if len(inner) == 1 else None
    if not isinstance(data, list):
        raise GuidedError(f"{path}: not a list of objects (write [{{...}}, {{...}}], or one object per line as .jsonl)")
    for i, row in enumerate(data):
        if not isinstance(row, dict):
            raise GuidedError(f"{path} row {i}: not an object (write it with columns)")
        yield f"{path} row {i}", row


def _is_row(data: dict[str, Any], lists: set[str]) -> bool:
    """Whether an object is a row, whose lists of objects are columns of its format: messages, tools."""
    try:
        form = recognise(data)
        form.read(data)
    except GuidedError:
        return False
    return lists <= {*form.keys, *form.also}


def _csv(path: str, delimiter: str = ",") -> Numbered:
    # A cell may be as long as the file; the module's own limit is 128 KiB.
    csv.field_size_limit(MAX_BYTES)
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        names = reader.fieldnames or []
        if len(set(names)) < len(names) or "" in names:
            raise GuidedError(f"{path}:1: a column has no name, or another one's (the first line names the columns)")
        for row in reader:
            if None in row or None in row.values():
                raise GuidedError(
                    f"{path}:{reader.line_num}: not as many cells as columns, {len(names)} (put text with "
                    f"{delimiter!r} in double quotes)"
                )
            # An empty cell is a missing value: CSV knows no other.
            yield f"{path}:{reader.line_num}", {key: value or None for key, value in row.items()}
    except csv.Error as error:
        raise GuidedError(f"{path}:{reader.reader.line_num}: not valid CSV ({error})") from None


def _tsv(path: str) -> Numbered:
    return _csv(path, "\t")


def _plain(path: str) -> Numbered:
    for number, line in enumerate(lines(_text(path)), 1):
        if line.strip():
            yield f"{path}:{number}", {"text": line}


def _parquet(path: str) -> Numbered:
    import pyarrow
    import pyarrow.parquet

    try:
        if os.stat(path).st_size > MAX_BYTES:
            raise GuidedError(f"{path}: more than the {MAX_BYTES} bytes that are read")
        table = pyarrow.parquet.read_table(path)
        rows = named_classes(table.to_pylist(), parquet_class_names(table.schema.metadata))
    except OSError as error:
        raise GuidedError(f"{path}: cannot be read ({error.strerror or 'not a Parquet file'})") from None
    except (pyarrow.ArrowException, ValueError) as error:
        if isinstance(error, GuidedError):
            raise
        raise GuidedError(f"{path}: not a valid Parquet file ({str(error).splitlines()[0][:160]})") from None
    for i, row in enumerate(rows):
        yield f"{path} row {i}", row


def _text(path: str) -> str:
    return read_text(path).removeprefix("\ufeff")


_READERS: dict[str, Callable[[str], Numbered]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _plain,
    ".parquet": _parquet,
}

ENDINGS = tuple(_READERS)
"""Endings of the files that are read."""
