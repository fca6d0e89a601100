"""Whether the examples of a task fit into a model: its window, and the tokens that it knows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..anatomy import base_model, original
from ..errors import GuidedError
from .rows import Example
from .tokens import IGNORE


def check_fits(
    model: nn.Module,
    name: str,
    examples: Sequence[Example],
    corrupted: Sequence[Example] | None,
    wrong: Sequence[tuple[int, ...]] | None,
) -> None:
    """See ``Task.check``."""
    base = base_model(model)
    window = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    vocabulary = original(base.get_input_embeddings()).num_embeddings
    for i, example in enumerate(examples):
        longest = max(len(sequence.ids) for sequence in example)
        if window is not None and longest > window:
            raise GuidedError(
                f"task {name!r}: example {i} has {longest} tokens, but the model's window is {window} (lower "
                "max_length)"
            )
        ids = _ids(example, corrupted[i] if corrupted else None, wrong[i] if wrong else None)
        unknown = next((token for token in (min(ids), max(ids)) if not 0 <= token < vocabulary), None)
        if unknown is not None:
            raise GuidedError(
                f"task {name!r}: example {i} has token id {unknown}, but the model knows {vocabulary} (use "
                "the model's own tokenizer)"
            )


def _ids(example: Example, corrupted: Example | None, wrong: tuple[int, ...] | None) -> list[int]:
    """All token ids that are read or asked for in an example."""
    sequences = (*example, *(corrupted or ()))
    answers = (*(s.labels for s in sequences), *((wrong,) if wrong else ()))
    asked = [label for labels in answers for label in labels if label != IGNORE]
    return [*(token for s in sequences for token in s.ids), *asked]
