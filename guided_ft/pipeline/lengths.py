"""Rows that are longer than training reads: counted, told, and left out where nothing of the answer would be left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import GuidedError
from ..task.given import Row
from ..task.lengths import Lengths
from ..task.reader import answered, asked
from ..task.tokens import read_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def fitting(rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, what: str) -> list[Row]:
    """The rows of which ``max_length`` tokens leave something to learn; what is left out or cut is told.

    Args:
        what: ``train`` or ``test``, for messages.

    Raises:
        GuidedError: if no row is left, or a row cannot be tokenized.
    """
    lengths = Lengths(max_length)
    kept: list[Row] = []
    for i, row in enumerate(rows):
        # No token is shorter than a byte, but a template adds some, and may refuse a row.
        if len(str(row).encode()) < max_length // 2 and not any(isinstance(value, list) for value in row.values()):
            lengths.rows += 1
            kept.append(row)
            continue
        try:
            sequences = read_row(row, tokenizer)
        except GuidedError as error:
            raise GuidedError(f"data: {what} row {i} ({_beginning(row)!r}): {error}") from None
        if lengths.room(sequences):
            kept.append(row)
    lengths.tell("data", f"{what} rows", "train.max_length")
    return kept


def _beginning(row: Row) -> str:
    return str(asked(row) or row.get("text") or answered(row))[:40]
