"""What a model answers to a prompt, whether the answer fits into its window, and the share of answers that is right."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..anatomy import base_model
from ..errors import GuidedError
from ..system.eval_mode import evaluating
from ..system.progress import track
from .greedy import greedy
from .rewards import number
from .tokens import asked_ids

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

logger = logging.getLogger("guided_ft")


def answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[object],
    *,
    max_new_tokens: int = 8,
    batch_size: int = 50,
    progress: bool | None = None,
) -> list[str]:
    """Greedy answers, stripped of surrounding space.

    Args:
        prompts: texts, lists of messages, or rows with a ``prompt`` and what its chat template needs. Messages that
            have their right answer are asked as they are trained.

    Raises:
        GuidedError: for a prompt that with its answer is longer than the model's window.
    """
    ids = [asked_ids(prompt, tokenizer) for prompt in prompts]
    check_window(window_of(base_model(model).config), map(len, ids), max_new_tokens)
    found: list[str] = []
    batches = [ids[i : i + batch_size] for i in range(0, len(ids), batch_size)]
    device = next(model.parameters()).device
    for batch in track(batches, len(batches), "answers", progress):
        # By hand: a tokenizer may have no token to pad with, and none that ends a text to take for it.
        room = [max(map(len, batch)) - len(row) for row in batch]
        inputs = [[tokenizer.pad_token_id or 0] * n + row for n, row in zip(room, batch, strict=True)]
        mask = [[0] * n + [1] * len(row) for n, row in zip(room, batch, strict=True)]
        with evaluating(model):
            new = greedy(
                model,
                torch.tensor(inputs, device=device),
                torch.tensor(mask, device=device),
                max_new_tokens=max_new_tokens,
                pad=tokenizer.pad_token_id,
                end=tokenizer.eos_token_id,
            )
        found += [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    return found


def answer_length(lengths: Iterable[int], limit: int, asked: int | None = None) -> int:
    """Tokens to generate: as asked, and it is told if the longest right answer does not fit; or else so many that it
    does, and that an answer that goes on after it is seen to be wrong.

    Args:
        lengths: tokens of each right answer.
        limit: longer answers are cut in training too.
    """
    longest = max(lengths, default=0)
    if asked is None:
        return max(8, min(limit, longest + 4))
    if asked < longest:
        logger.warning(
            "evaluate.max_new_tokens: %d tokens cannot hold the longest right answer, which has %d (write auto)",
            asked,
            longest,
        )
    return asked


def exact_match(found: Sequence[str], expected: Sequence[str], special: Sequence[str] = ()) -> float:
    """Share of answers that are exactly the expected ones, 0 to 100.

    Args:
        special: texts that an answer never shows, since they stand for special tokens, such as the end of the text.
    """
    for token in special:
        expected = [text.replace(token, "") for text in expected]
    return 100 * sum(f == e.strip() for f, e in zip(found, expected, strict=True)) / len(expected)


def number_accuracy(found: Sequence[str], expected: Sequence[str]) -> float:
    """Share of answers whose last number is the expected answer's last number, 0 to 100."""
    return 100 * sum(number(f, e) for f, e in zip(found, expected, strict=True)) / len(found)


def macro_f1(found: Sequence[str], expected: Sequence[str]) -> float:
    """Mean over the expected labels of 2 hits / (times found + times expected), 0 to 100."""
    labels = sorted({*expected})
    hits = {label: sum(f == e == label for f, e in zip(found, expected, strict=True)) for label in labels}
    each = [2 * hits[label] / (list(found).count(label) + list(expected).count(label)) for label in labels]
    return 100 * sum(each) / len(each)


def window_of(config: PreTrainedConfig) -> int | None:
    """How many tokens a model can read; None if its configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_window(window: int | None, lengths: Iterable[int], new: int, what: str = "prompt") -> None:
    """Raise GuidedError, with its number, for a prompt of which ``new`` more tokens do not fit into the window."""
    for i, length in enumerate(lengths):
        if window is not None and length + new > window:
            raise GuidedError(
                f"{what} {i}: its {length} tokens and an answer of {new} are more than the model's window of {window} "
                "(shorten the prompt, or lower max_new_tokens)"
            )
