"""Text to be kept: what a recipe names, read. Imports no torch before it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..recipe.fields import kept_texts
from ..task.samples import SAMPLES, sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from ..task.task import Task


def load_retained(
    value: str, tokenizer: PreTrainedTokenizerBase, max_length: int, batch_size: int, seed: int
) -> str | Task | Sequence[Task] | None:
    """What ``localize`` is given for ``retain``: ``self`` as it is, None for ``none``, else one text or several."""
    if value in ("self", "none"):
        return None if value == "none" else value
    found = [load_text(name, tokenizer, max_length, batch_size, seed) for name in kept_texts(value)]
    return found[0] if len(found) == 1 else found


def load_text(name: str, tokenizer: PreTrainedTokenizerBase, max_length: int, batch_size: int, seed: int) -> Task:
    """A file of the user's, or one of the samples."""
    from ..task.task import Task

    if name in SAMPLES:
        rows = sample(name, seed)
        return Task.from_dataset(rows, tokenizer, max_length=max_length, batch_size=batch_size, name=name)
    return Task.load(name, tokenizer, max_length=max_length, batch_size=batch_size)
