"""Out of memory: the same scores from smaller batches, with a word about it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from ..errors import GuidedError
from ..system import processes
from ..task.task import Task

logger = logging.getLogger("guided_ft")

T = TypeVar("T")


def within_memory(task: Task, score: Callable[[int], T]) -> T:
    """Call ``score`` with the task's batch size, and with half of it each time when memory runs out.

    Scores of single examples stay what they were; what a method reads off a whole batch (``gradient`` squares its mean)
    is then that of the smaller one.

    Raises:
        GuidedError: if a single example is too much.
    """
    size = min(task.batch_size, len(task))
    while True:
        try:
            return score(size)
        except (RuntimeError, MemoryError) as error:
            # Several processes would have to agree on a size that only one of them knows.
            if not is_out_of_memory(error) or processes.size() > 1:
                raise
            if size == 1:
                longest = max(len(sequence.ids) for example in task.examples for sequence in example)
                raise GuidedError(
                    f"task {task.name!r}: one example at a time is too much for the memory (the longest has "
                    f"{longest:,} tokens: lower max_length, or choose a smaller model)"
                ) from None
        # Out of the except block: the error holds on to all that was computed.
        size = max(1, size // 2)
        logger.warning("task %r: out of memory, so it is read in batches of %d", task.name, size)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def smaller(value: object, size: int) -> Any:
    """A task, or each in a list of them, with at most ``size`` examples a batch; anything else as it is."""
    if isinstance(value, Task):
        return replace(value, batch_size=min(value.batch_size, size))
    return [smaller(each, size) for each in value] if isinstance(value, list) else value


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out: on a GPU mostly a class of its own, on the CPU a message."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    # "CUDA error: out of memory" is what other calls than torch's allocator say; "illegal memory access" is no want.
    return isinstance(error, kinds) or any(words in str(error) for words in ("can't allocate memory", "out of memory"))
