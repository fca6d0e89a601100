"""What a file of rows asks, in any format that trains too, with or without the right answers. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import GuidedError
from ..system.files import Json
from ..task.read_file import read_file
from ..task.reader import ANSWERS, Reader, answered, asked


@dataclass(frozen=True)
class Question:
    """A row of a file, what it asks, and the right answer if the row has one.

    Args:
        row: as it is in the file.
        prompt: in TRL's words: ``prompt``, text or messages, and what a chat template needs.
    """

    row: Json
    prompt: Json
    answer: str | None


def read_questions(path: str | os.PathLike[str]) -> list[Question]:
    """Read a file. Raises GuidedError, with the row, for one that asks nothing."""
    found = []
    for where, row in read_file(path):
        try:
            found.append(_question(row))
        except GuidedError as error:
            raise GuidedError(f"{where}: {error}") from None
    if not found:
        raise GuidedError(f"{path}: no rows in it (write one prompt a line)")
    return found


def _question(row: dict[str, object]) -> Question:
    if set(row) == {"text"} or (set(row) == {"prompt"} and isinstance(row["prompt"], str)):
        return Question(row, {"prompt": next(iter(row.values()))}, None)
    first: GuidedError | None = None
    # A row without its answer is of the format that it would be with one.
    for more in ("", *ANSWERS):
        try:
            read = Reader()({**row, **({more: "?"} if more else {})})
        except GuidedError as error:
            first = first or error
            continue
        prompt = asked(read) or read.get("messages") or read.get("text")
        if prompt is None:
            break
        return Question(row, {**read, "prompt": prompt}, answered(read) if not more and asked(read) else None)
    raise first or GuidedError("it asks nothing (give it a prompt)")
