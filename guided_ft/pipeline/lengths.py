"""Rows that are longer than training reads: counted, told, and left out where nothing of the answer would be left."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import GuidedError
from ..task.reader import answered, asked
from ..task.tokens import IGNORE, read_row

logger = logging.getLogger("guided_ft")

Row = dict[str, Any]


def fitting(rows: list[Row], tokenizer: Any, max_length: int, what: str) -> list[Row]:
    """The rows of which ``max_length`` tokens leave something to learn; what is left out or cut is told.

    Args:
        what: ``train`` or ``test``, for messages.

    Raises:
        GuidedError: if no row is left, or a row cannot be tokenized.
    """
    kept: list[Row] = []
    cut = 0
    for i, row in enumerate(rows):
        # No token is shorter than a byte, but a template adds some.
        if len(str(row)) < max_length // 2:
            kept.append(row)
            continue
        try:
            sequences = read_row(row, tokenizer)
        except GuidedError as error:
            raise GuidedError(f"data: {what} row {i} ({_beginning(row)!r}): {error}") from None
        left = all(
            any(label != IGNORE for label in s.labels[1:max_length])
            and (s.labels[0] != IGNORE or sum(label != IGNORE for label in s.labels) <= max_length)
            for s in sequences
        )
        cut += left and any(len(s.ids) > max_length for s in sequences)
        if left:
            kept.append(row)
    out = len(rows) - len(kept)
    if rows and not kept:
        raise GuidedError(
            f"data: no {what} row fits into {max_length} tokens, so nothing can be learned (raise train.max_length, or "
            "shorten the prompts)"
        )
    if out or cut:
        logger.warning(
            "data: of %d %s rows, %d do not fit into %d tokens and are left out, %d are cut (train.max_length)",
            *(len(rows), what, out, max_length, cut),
        )
    return kept


def _beginning(row: Row) -> str:
    return str(asked(row) or row.get("text") or answered(row))[:40]
