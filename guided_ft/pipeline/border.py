"""Where prompt and answer meet: what a tokenizer joins across the border is told, once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..system.progress import drop_border_notice
from ..task.tokens import IGNORE, prompt_ids, read_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]

logger = logging.getLogger("guided_ft")

LOOKED_AT = 200
"""Rows: rows of one file are written alike."""


def tell_joined(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> None:
    """Say in how many rows the last token of the prompt is joined with the first of the answer.

    All that train, localize and evaluate read the same tokens of a row; but what is asked later ends in a token that
    was never trained on.
    """
    texts = [row for row in rows if isinstance(row.get("prompt"), str)][:LOOKED_AT]
    joined = [told for row in texts if (told := _joined(row, tokenizer))]
    if joined:
        before, after = joined[0]
        logger.warning(
            "data: the tokenizer joins the end of the prompt with the answer in %d of %d rows (%r becomes %r), so that "
            "what is asked ends in other tokens than what was trained (begin the answers with a space)",
            len(joined),
            len(texts),
            before,
            after,
        )
    drop_border_notice()


def _joined(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str] | None:
    """The end of the prompt, and what stands in its place when the answer follows; None if that is the same."""
    asked = prompt_ids(row, tokenizer)
    for sequence in read_row(row, tokenizer):
        first = next((i for i, label in enumerate(sequence.labels) if label != IGNORE), len(asked))
        if first < len(asked):
            return str(tokenizer.decode(asked[first:])), str(tokenizer.decode(list(sequence.ids[first : first + 1])))
    return None
