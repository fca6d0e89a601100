"""The model's window: what does not fit into it is told before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import GuidedError
from ..task.answers import check_window, window_of
from ..task.reader import asked
from ..task.tokens import prompt_ids, read_row

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from ..recipe.recipe import Recipe


def check_recipe_window(
    recipe: Recipe,
    rows: tuple[list[dict], list[dict]],
    tokenizer: PreTrainedTokenizerBase,
    answer_length: int,
    config: PreTrainedConfig,
) -> None:
    """Raise GuidedError for what a recipe would read beyond its model's window.

    Args:
        rows: to train on, and to test with.
        answer_length: tokens that are generated for a test prompt.
    """
    window = window_of(config)
    if window is None:
        return
    if recipe.evaluate.retention != "none" and recipe.evaluate.retention_tokens > window:
        raise GuidedError(
            f"evaluate.retention_tokens: {recipe.evaluate.retention_tokens} is more than the model's window of {window}"
        )
    if recipe.train.max_length > window:
        for i, row in enumerate([*rows[0], *rows[1]]):
            longest = max(len(sequence.ids) for sequence in read_row(row, tokenizer))
            if longest > window:
                raise GuidedError(
                    f"data: row {i} has {longest} tokens, but the model's window is {window} (write train.max_length: "
                    f"{window}, which cuts it)"
                )
    questions = [row for row in rows[1] if asked(row) is not None]
    lengths = (len(prompt_ids({**row, "prompt": asked(row)}, tokenizer)) for row in questions)
    check_window(window, lengths, answer_length, "data: test row")
