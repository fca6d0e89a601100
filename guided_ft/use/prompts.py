"""What a file of rows asks, in any format that trains too, with or without the right answers. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..errors import GuidedError
from ..system.files import Json
from ..task.read_file import read_file
from ..task.reader import ANSWERS, Reader, answered, asked

if TYPE_CHECKING:
    from ..recipe.recipe import Data

ANSWERING = ("completion", "chosen", "rejected", "label")
"""What TRL calls the columns that a question does without."""


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


def read_questions(path: str | os.PathLike[str], data: Data | None = None) -> list[Question]:
    """Read a file. Raises GuidedError, with the row, for one that asks nothing.

    Args:
        data: of the run whose model is asked: a row that has columns of its settings is read as its rows were, so that
            what is asked is what was trained.
    """
    own = Reader if data is None else partial(Reader, data.format, data.columns, data.prompt)
    found = []
    for where, row in read_file(path):
        there = own().named.intersection(key for key, value in row.items() if value is not None)
        try:
            found.append(_question(row, own) if there else _plain(row))
        except GuidedError as error:
            raise GuidedError(f"{where}: {error}") from None
    if not found:
        raise GuidedError(f"{path}: no rows in it (write one prompt a line)")
    return found


def _plain(row: Json) -> Question:
    if set(row) == {"text"} or (set(row) == {"prompt"} and isinstance(row["prompt"], str)):
        return Question(row, {"prompt": next(iter(row.values()))}, None)
    return _question(row, Reader)


def _question(row: Json, make: Callable[[], Reader]) -> Question:
    mapped = [theirs for ours, theirs in make().columns.items() if ours in ANSWERING and row.get(theirs) is None]
    first: GuidedError | None = None
    # A row without its answer is of the format that it would be with one.
    for more in ([], mapped, *([name] for name in ANSWERS)):
        try:
            read = make()({**row, **dict.fromkeys(more, "?")})
        except GuidedError as error:
            first = first or error
            continue
        prompt = asked(read) or read.get("messages") or read.get("text")
        if prompt is None:
            break
        return Question(row, {**read, "prompt": prompt}, answered(read) if not more and asked(read) else None)
    raise first or GuidedError("it asks nothing (give it a prompt)")
