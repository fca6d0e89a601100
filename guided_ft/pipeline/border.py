"""Where prompt and answer meet: that what is asked later ends otherwise than what was trained is told, once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..system.progress import drop_border_notice
from ..task.reader import asked, last_answer_apart
from ..task.tokens import IGNORE, prompt_ids, read_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]

logger = logging.getLogger("guided_ft")

LOOKED_AT = 200
"""Rows: rows of one file are written alike."""

JOINED = (
    "data: the tokenizer joins the end of the prompt with the answer in %d of %d rows (%r becomes %r), so that what is "
    "asked ends in other tokens than what was trained (begin the answers with a space)"
)

RENDERED = (
    "data: the chat template ends a prompt otherwise when its answer follows, in %d of %d rows (%r becomes %r): the "
    "test asks as was trained, but chat and servers do not (take chat_template_kwargs or a template that end both "
    "alike)"
)


def tell_joined(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> None:
    """Say in how many rows the last token of the prompt is joined with the first of the answer, or the chat template
    ends a prompt that waits for its answer otherwise than one that has it.

    All that train, localize and evaluate read the same tokens of a row; but what is asked later ends in a token that
    was never trained on.
    """
    looked_at = [last_answer_apart(row) for row in rows if asked(row) is not None][:LOOKED_AT]
    joined = [told for row in looked_at if (told := _joined(row, tokenizer))]
    if joined:
        line = JOINED if isinstance(looked_at[0]["prompt"], str) else RENDERED
        logger.warning(line, len(joined), len(looked_at), *joined[0])
    drop_border_notice()


def _joined(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str] | None:
    """The end of the prompt, and what stands in its place when the answer follows; None if that is the same."""
    waiting = prompt_ids(row, tokenizer)
    for sequence in read_row(row, tokenizer):
        first = next((i for i, label in enumerate(sequence.labels) if label != IGNORE), len(waiting))
        if first < len(waiting):
            return str(tokenizer.decode(waiting[first:])), str(tokenizer.decode(list(sequence.ids[first : first + 1])))
    return None
