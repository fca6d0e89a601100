"""Let a trained model answer the rows of a file, and its base beside it."""

from __future__ import annotations

from collections.abc import Sequence

from ..system.files import Json
from ..task.answers import answers, exact_match
from ..task.tokens import right_answer
from .finished import Finished
from .prompts import Question


def generate(
    run: Finished,
    questions: Sequence[Question],
    *,
    base: bool = False,
    max_new_tokens: int = 256,
    batch_size: int = 16,
) -> tuple[list[Json], dict[str, float]]:
    """Greedy answers.

    Args:
        base: let the model before training answer, too.

    Returns:
        The rows with ``trained_answer`` (and ``base_answer``) added; and the share of exactly right answers by name, 0
        to 100, if all rows have a right answer.
    """
    prompts = [q.prompt for q in questions]
    if run.recipe.train.reward is not None:
        # Rewarded was the bare text of an answer, and not what a chat template writes around it.
        prompts = [{"prompt": q.prompt["prompt"], "completion": q.answer} for q in questions]
    options: Json = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    found = {"trained_answer": answers(run.model, run.tokenizer, prompts, **options)}
    if base:
        with run.base() as model:
            found["base_answer"] = answers(model, run.tokenizer, prompts, **options)
    rows = [{**q.row, **{name: said[i] for name, said in found.items()}} for i, q in enumerate(questions)]
    if any(q.answer is None for q in questions):
        return rows, {}
    right = [right_answer(prompt, run.tokenizer) for prompt in prompts]
    return rows, {name: exact_match(said, right) for name, said in found.items()}
