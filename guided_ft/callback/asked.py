"""What a callback is asked to localize for: a Task, or rows that become one with the trainer's own tokenizer."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeGuard, cast, overload

from ..errors import GuidedError
from ..scorers.settings import LocalizeOptions
from ..task.given import Given, Row, rows_of
from ..task.task import Task
from ..task.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainingArguments

logger = logging.getLogger("guided_ft")

Retain = Task | Given | Sequence[Task] | str | None
"""What may be handed over to be kept, as in ``localize``; a data set too."""


def check_asked(task: Task | Given | None, retain: Retain) -> None:
    """Raise GuidedError, when the callback is made, for what is neither a Task, rows, nor a word (``self``)."""
    for what, given in (("task", task), ("retain", None if isinstance(retain, str) else retain)):
        if given is None or isinstance(given, Task) or _are_tasks(given):
            continue
        try:
            rows_of(cast("Given", given))
        except GuidedError as error:
            reason = str(error).removeprefix("dataset: ")
            raise GuidedError(f"{what}: neither a Task nor a data set: {reason}") from None


@overload
def as_task(
    given: Task | Given, what: str, args: TrainingArguments, tokenizer: PreTrainedTokenizerBase | None
) -> Task: ...
@overload
def as_task(
    given: Retain, what: str, args: TrainingArguments, tokenizer: PreTrainedTokenizerBase | None
) -> Task | Sequence[Task] | str | None: ...
def as_task(
    given: Retain, what: str, args: TrainingArguments, tokenizer: PreTrainedTokenizerBase | None
) -> Task | Sequence[Task] | str | None:
    """The Task of the first rows of a data set, cut as the trainer cuts its own; anything else as it is.

    Args:
        args: the trainer's arguments.
        tokenizer: the trainer's ``processing_class``; None: it has none.
    """
    if given is None or isinstance(given, str | Task) or _are_tasks(given):
        return given
    rows = list(itertools.islice(rows_of(cast("Given", given)), LocalizeOptions.examples))
    if tokenizer is None and not all("input_ids" in row for row in rows if isinstance(row, Mapping)):
        raise GuidedError(
            f"{what}: this trainer has no tokenizer for the rows (pass processing_class=tokenizer to it, or "
            f"{what}=Task.from_dataset(rows, tokenizer))"
        )
    field = getattr(args, "dataset_text_field", None) or "text"
    rows = [_text_first(row, field) for row in rows]
    length, size = getattr(args, "max_length", None), args.per_device_train_batch_size
    task = Task.from_dataset(rows, tokenizer, max_length=length, batch_size=size, name=what)
    if getattr(args, "assistant_only_loss", False):
        logger.warning(
            "%s: the trainer learns what assistants say alone (assistant_only_loss), but the map is of whole messages "
            "(pass a Task of rows with prompt and completion)",
            what,
        )
    return _whole(task) if getattr(args, "completion_only_loss", None) is False else task


def _text_first(row: Row, field: str) -> Row:
    """A row of plain text under the name that TRL reads it by."""
    there = isinstance(row, Mapping) and field in row and "text" not in row
    return {**{key: value for key, value in row.items() if key != field}, "text": row[field]} if there else row


def _whole(task: Task) -> Task:
    """The same examples with every token labelled, as a trainer reads them that learns prompts, too."""
    if task.is_preference:
        return task
    return replace(task, examples=tuple((Tokens(text.ids, text.ids),) for (text,) in task.examples))


def _are_tasks(given: object) -> TypeGuard[Sequence[Task]]:
    return isinstance(given, list | tuple) and bool(given) and all(isinstance(each, Task) for each in given)
