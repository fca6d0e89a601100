"""TRL's trainers for a recipe: one function builds each, from rows that hold the tokens that were localized with."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from ..errors import GuidedError
from ..plan.plan import Plan
from ..task.answers import answer_length, window_of
from ..task.formats import CHAT
from ..task.given import Row
from ..task.reader import answered, asked
from ..task.rewards import REWARDS
from ..task.tokens import answer_tokens, read_row
from .whole import Whole

if TYPE_CHECKING:
    from ..recipe.recipe import Recipe


Settings = dict[str, Any]
"""Fields of a trainer's arguments, of whatever type each has."""

C = TypeVar("C")
T = TypeVar("T", SFTTrainer, DPOTrainer, GRPOTrainer)

GROUP = 8
"""Answers to one prompt that GRPO compares, where a recipe does not say and the batch holds them."""


def make_arguments(make: Callable[..., C], **settings: object) -> C:
    """A trainer's arguments. Raises GuidedError for what they refuse."""
    try:
        return make(**settings)
    except (ValueError, TypeError, ImportError) as error:
        told = " ".join(str(error).split())[:200]
        raise GuidedError(f"train: {make.__name__} refuses it ({told})") from None


@dataclass(frozen=True)
class Job:
    """What a trainer is built from.

    Args:
        settings: fields of its arguments that do not depend on the trainer.
    """

    recipe: Recipe
    plan: Plan | Whole
    rows: list[Row]
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: Settings
    callback: TrainerCallback

    def build(self, trainer: Callable[..., T], args: object, rows: list[Row], **more: object) -> T:
        """Hand a trainer of TRL all that does not depend on which it is."""
        return trainer(
            self.model,
            args=args,
            train_dataset=dataset_of(rows),
            processing_class=self.tokenizer,
            peft_config=self.plan.peft_config(),
            callbacks=[self.callback],
            **more,
        )


def _sft(job: Job) -> SFTTrainer:
    args = make_arguments(SFTConfig, **_lengths(job) | job.settings)
    return job.build(SFTTrainer, args, _tokenized(job.rows, job.tokenizer, job.recipe.train.max_length))


def _tokenized(rows: list[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Row]:
    """Ready ids, so that trained is what was localized: a table of columns would fill up tools and messages."""
    sequences = [read_row(row, tokenizer)[0] for row in rows]
    return [{"input_ids": list(s.ids[:max_length]), "labels": list(s.labels[:max_length])} for s in sequences]


def _dpo(job: Job) -> DPOTrainer:
    args = make_arguments(DPOConfig, **_lengths(job) | job.settings, beta=job.recipe.train.beta)
    trainer = job.build(DPOTrainer, args, _pairs(job.rows))
    assert isinstance(trainer.train_dataset, Dataset)
    _check_same_tokens(trainer.train_dataset, job.rows, job.tokenizer)
    return trainer


def _pairs(rows: list[Row]) -> list[Row]:
    # Tools as text, which TRL reads: a table would give each tool the columns of all others.
    return [row | {k: json.dumps(row[k]) for k in ("tools",) if k in row} for row in rows]


def _check_same_tokens(dataset: Iterable[Row], rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise GuidedError if the trainer renders messages in other tokens than those that were localized with."""
    if isinstance(rows[0]["prompt"], str):
        return
    for i, (theirs, row) in enumerate(zip(dataset, rows, strict=True)):
        prompt = tuple(theirs["prompt_ids"])
        ours = [sequence.ids for sequence in read_row(row, tokenizer)]
        if ours != [prompt + tuple(theirs[key]) for key in ("chosen_ids", "rejected_ids")]:
            raise GuidedError(
                f"data: training row {i}: the trainer renders other tokens than were localized with (give all rows the "
                "same keys in messages and chat_template_kwargs)"
            )


def _grpo(job: Job) -> GRPOTrainer:
    settings, train = job.settings, job.recipe.train
    if any(key in row for row in job.rows for key in CHAT):
        raise GuidedError(f"data: trainer grpo reads no {' and no '.join(CHAT)} (remove these columns)")
    lengths = (answer_tokens({"completion": answered(row)}, job.tokenizer) for row in job.rows)
    # Every batch holds whole groups.
    batch = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    usual = {"num_generations": math.gcd(GROUP, batch)}
    usual["max_completion_length"] = answer_length(lengths, train.max_length)
    args = make_arguments(GRPOConfig, **usual | settings, beta=train.beta)
    rewards = [_rewarder(name) for name in str(train.reward).split("+")]
    return job.build(GRPOTrainer, args, _questions(job.rows), reward_funcs=rewards)


def _questions(rows: list[Row]) -> list[Row]:
    return [{"prompt": asked(row), "expected": answered(row)} for row in rows]


def _rewarder(name: str) -> Callable[..., list[float | None]]:
    """A reward as TRL calls it: with completions, as text or as messages, and the columns of the data."""
    reward = REWARDS[name]

    def rewards(completions: list[str | list[Row]], expected: list[str], **rest: object) -> list[float | None]:
        found = [each if isinstance(each, str) else str(each[-1].get("content") or "") for each in completions]
        given = [float(reward(*pair)) for pair in zip(found, expected, strict=True)]
        for answer, value in zip(found, given, strict=True):
            if not math.isfinite(value):
                raise GuidedError(f"train.reward: {name} gave {value} for {answer[:40]!r} (give a finite number)")
        return list(given)

    rewards.__name__ = name
    return rewards


TRAINERS: dict[str, Callable[[Job], SFTTrainer | DPOTrainer | GRPOTrainer]] = {"sft": _sft, "dpo": _dpo, "grpo": _grpo}
"""What builds each trainer (``train.trainer``)."""


_TABLES: dict[str, Callable[[list[Row]], list[Row]]] = {"dpo": _pairs, "grpo": _questions}
"""The rows that a trainer makes a table of, where it does not get tokens."""


def check_table(trainer: str, rows: list[Row]) -> None:
    """Raise GuidedError for rows that a trainer will not be able to make a table of."""
    if trainer in _TABLES:
        dataset_of(_TABLES[trainer](rows))


PAD = 8
"""Tokens that padded lengths are a multiple of, where the model's window is: few different lengths, since stored states
are found again only at the padded length that they were computed at."""


def _lengths(job: Job) -> dict[str, int]:
    # A divisor of the window: no row that fits into it is padded beyond it.
    multiple = math.gcd(PAD, window_of(job.model.config) or PAD)
    return {"max_length": job.recipe.train.max_length, "pad_to_multiple_of": multiple}


def dataset_of(rows: list[Row]) -> Dataset:
    """Rows as a table. Raises GuidedError if they make none."""
    if not sys.stderr.isatty() or len(rows) < 10_000:
        # Fewer are tokenized in a second or two.
        disable_progress_bars()
    try:
        return Dataset.from_list(rows)
    except (pyarrow.ArrowException, OverflowError, TypeError, ValueError) as error:
        told = str(error).splitlines()[0][:160]
        raise GuidedError(f"data: the rows make no table ({told}; give all messages the same keys and types)") from None
