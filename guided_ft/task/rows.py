"""Rows of a data set as token ids: read, checked and written. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import GuidedError
from .given import Given, Row, rows_of
from .lengths import Lengths
from .read_file import read_file
from .reader import Reader, read_all, tell_dropped
from .spread import spread
from .tokenizer import tokenizer_of
from .tokens import IGNORE, Tokens, read_corrupted, read_row, read_wrong

if TYPE_CHECKING:
    from .tokenizer import Tokenizing

Example = tuple[Tokens, ...]
"""One sequence (SFT), or the chosen and the rejected one (preferences)."""


def read_rows(dataset: Given, tokenizer: Tokenizing, max_length: int | None, name: str) -> dict[str, Any]:
    """Return the fields ``examples``, ``corrupted``, ``wrong`` and ``pad_id`` of a Task (see ``Task.from_dataset``)."""
    examples: list[Example] = []
    corrupted: list[Example | None] = []
    wrong: list[tuple[int, ...] | None] = []
    reader, found, lengths = Reader(), tokenizer_of(tokenizer), Lengths(max_length)
    for i, raw in ((i, each) for i, row in enumerate(rows_of(dataset)) for each in spread(row)):
        try:
            row = reader(raw)
            example = read_row(row, found)
            other, labels = read_corrupted(row, found), read_wrong(row, found, example[0])
            _check_like_first("corrupted prompt", other, corrupted)
            _check_like_first("wrong answer", labels, wrong)
        except GuidedError as error:
            raise GuidedError(f"task {name!r}: row {i}: {error}") from None
        if not lengths.room(example):
            continue
        examples.append(_cut(example, max_length))
        corrupted.append(other and _cut(other, max_length))
        wrong.append(labels and labels[:max_length])
    tell_dropped(reader, f"task {name!r}")
    lengths.tell(f"task {name!r}", "rows", "max_length")
    pad = getattr(found, "pad_token_id", None)
    if pad is None:
        pad = getattr(found, "eos_token_id", None) or 0
    return {
        "examples": tuple(examples),
        "pad_id": pad,
        "corrupted": tuple(corrupted) if any(corrupted) else None,
        "wrong": tuple(wrong) if any(wrong) else None,
    }


def num_scored(examples: Sequence[Example]) -> int:
    """How many tokens have a label."""
    return sum(label != IGNORE for example in examples for s in example for label in s.labels[1:])


def check_examples(name: str, examples: Sequence[Example]) -> None:
    """Raise GuidedError, with the example's index, where one is of another format than the first, or has no answer."""
    for i, example in enumerate(examples):
        if len(example) != len(examples[0]):
            raise GuidedError(f"task {name!r}: example {i} mixes SFT and preference rows (use one format)")
        for sequence in example:
            if all(label == IGNORE for label in sequence.labels[1:]):
                raise GuidedError(f"task {name!r}: example {i} has no answer tokens (is the completion empty?)")


def check_pairs(
    name: str,
    examples: Sequence[Example],
    corrupted: Sequence[Example] | None,
    wrong: Sequence[tuple[int, ...]] | None,
) -> None:
    """Raise GuidedError, with the example's index, where a pair's sequences or answers do not lie beside each other."""
    for i, (example, other) in enumerate(zip(examples, corrupted or examples, strict=True)):
        for clean, changed in zip(example, other, strict=True):
            if len(clean.ids) != len(changed.ids):
                raise GuidedError(
                    f"task {name!r}: example {i} has {len(clean.ids)} tokens but its corrupted one "
                    f"{len(changed.ids)} (patching needs the same number, token for token)"
                )
    if wrong is None:
        return
    if len(examples[0]) > 1:
        raise GuidedError(f"task {name!r}: example 0 has a rejected and a wrong answer (leave 'wrong' out)")
    for i, (example, answer) in enumerate(zip(examples, wrong, strict=True)):
        labels = example[0].labels
        # The right answer's token must be there to be compared with.
        if len(answer) != len(labels) or not any(w != IGNORE != r for w, r in zip(answer, labels, strict=True)):
            raise GuidedError(
                f"task {name!r}: example {i} has no wrong answer token beside the right one (does 'wrong' differ "
                "within max_length?)"
            )


def read_lines(path: str | os.PathLike[str]) -> list[Row]:
    """Rows of a file, in TRL's words. Raises GuidedError with the number of the line, or of the row."""
    return read_all(read_file(path), Reader(), os.fspath(path))


def id_rows(
    examples: Sequence[Example], corrupted: Sequence[Example] | None, wrong: Sequence[tuple[int, ...]] | None
) -> list[dict[str, Any]]:
    """Rows of token ids that ``read_rows`` reads back."""
    rows: list[dict[str, Any]] = [
        {"input_ids": e[0].ids, "labels": e[0].labels}
        | ({"rejected_ids": e[1].ids, "rejected_labels": e[1].labels} if len(e) > 1 else {})
        for e in examples
    ]
    for row, other in zip(rows, corrupted or (), strict=False):
        row |= dict(zip(("corrupted_ids", "corrupted_rejected_ids"), (s.ids for s in other), strict=False))
    for row, labels in zip(rows, wrong or (), strict=False):
        row["wrong_labels"] = labels
    return rows


def _cut(example: Example, max_length: int | None) -> Example:
    return tuple(Tokens(s.ids[:max_length], s.labels[:max_length]) for s in example)


def _check_like_first(what: str, found: object, earlier: Sequence[object]) -> None:
    if earlier and (found is None) != (earlier[0] is None):
        raise GuidedError(f"it has {'a' if found else 'no'} {what}, unlike row 0 (give all rows one, or none)")
