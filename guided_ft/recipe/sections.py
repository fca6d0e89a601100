"""The sections of a recipe: every key, its default and what it means. Imports no torch.

A key is a field here; ``fields.py`` has the kinds of values.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..plan.plan import DEFAULT_MODE, Plan
from ..scorers.settings import LocalizeOptions
from ..selection.settings import SelectOptions
from .fields import (
    AnswerLength,
    Budget,
    CacheSize,
    Columns,
    Count,
    Decay,
    Epochs,
    Flag,
    Format,
    FreeText,
    Kept,
    Kinds,
    LearningRate,
    Method,
    Metric,
    Mode,
    Options,
    Place,
    Rank,
    Rate,
    Reward,
    Sample,
    Steps,
    Strategy,
    TestAmount,
    Text,
    TrainAmount,
)
from .says import Says
from .trl_fields import TrainerName

_ASKED, _SPENT, _PLAN = LocalizeOptions, SelectOptions, Plan

MAX_STEPS = 10**9
"""Above every real run."""


class Section(BaseModel):
    """Keys that belong together; unknown ones are refused, known ones never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """What is learned, and what is held back to test it."""

    source: Literal["reasoning_gym", "file", "hub", "sample"] = Field(
        default="reasoning_gym", description="where the examples come from"
    )
    name: Text | None = Field(default=None, description="generator of reasoning_gym, dataset id on the hub, or sample")
    path: Place | None = Field(default=None, description="file of source file: .jsonl, .json, .csv, .txt, .parquet")
    test_path: Place | None = Field(default=None, description="file of test examples")
    split: Text = Field(default="train", description="split of a hub dataset")
    subset: Text | None = Field(default=None, description="named part of a hub dataset (main), or one of its files")
    fallback: Sample | None = Field(default=None, description="made-up sample to run on where the hub is out of reach")
    format: Format = Field(default="auto", description="format of the rows (auto: the one whose columns they have)")
    columns: Columns = Field(default={}, description="columns that are read: prompt, completion and so on, and yours")
    prompt: FreeText | None = Field(
        default=None, description="what puts the prompt together from columns: '{context} {question}'"
    )
    options: Options = Field(default={}, description="options of the generator")
    contains: FreeText | None = Field(default=None, description="keep only questions that contain this text")
    preference: Flag = Field(default=False, description="make pairs: the right number against a wrong one")
    train: TrainAmount = Field(
        default="auto",
        description="training examples: a number, a share (50%), or auto (800 drawn; of a file the rest, to 100,000)",
    )
    test: TestAmount = Field(
        default="auto",
        description="test examples, never trained on: a number, 0, a share, or auto (100; of a file 20%, at most 100)",
    )


class Localize(Section):
    """How the map is made."""

    method: Method = Field(default=_ASKED.method, description="scorer of units (neurons, heads, layers)")
    retain: Kept = Field(
        default=_ASKED.retain, description="what must be kept: self (text the model samples), none, or files"
    )
    examples: Count = Field(default=_ASKED.examples, description="training examples to score on")
    batch_size: Count = Field(default=_ASKED.batch_size, description="examples per forward pass")
    options: Options = Field(default={}, description="options of the scorer")


class Select(Section):
    """What the map is spent on."""

    budget: Budget = Field(default=_SPENT.budget, description="share (0.1%, 0.001) or number of parameters to train")
    kinds: Kinds = Field(default=_SPENT.kinds, description="units that may be chosen: neuron, head, layer")
    strategy: Strategy = Field(
        default=_SPENT.strategy,
        description="top, random or shuffled; of units also bottom, of directions also even and random_even",
    )
    first_layer: Steps = Field(
        default=_SPENT.first_layer, description="first layer that may be chosen: training stops below it"
    )


class Train(Section):
    """How what is chosen is trained."""

    trainer: TrainerName = Field(
        default="sft", description="supervised, on preferences, or on rewards of its own answers"
    )
    reward: Reward | None = Field(
        default=None, description="of trainer grpo: exact_match, number and others, several joined by +"
    )
    mode: Mode = Field(
        default=DEFAULT_MODE, description="what is chosen and how it trains: subspace, slice, freeze or lora"
    )
    rank: Rank = Field(
        default=Plan.rank, description="rank of lora, or of each slice (default: slices are trained in full)"
    )
    mode_options: Options = Field(default={}, description="options of the mode, beside the rank")
    lr_scale: Rate = Field(default=_PLAN.lr_scale, description="factor on the learning rate of the chosen parts")
    learning_rate: LearningRate = Field(
        default="auto", description="peak learning rate of AdamW (auto: by the mode and by how much trains)"
    )
    steps: Annotated[int, Field(strict=True, gt=0, le=MAX_STEPS), Says(f"an integer from 1 to {MAX_STEPS}")] = Field(
        default=100, description="optimizer steps"
    )
    epochs: Epochs = Field(default=None, description="passes over the training rows, in place of steps")
    batch_size: Count = Field(default=8, description="examples per forward pass")
    accumulate: Count = Field(default=1, description="forward passes per optimizer step")
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        default="linear", description="course of the learning rate"
    )
    warmup_steps: Steps = Field(default=0, description="steps until the peak learning rate")
    weight_decay: Decay = Field(default=0.0, description="AdamW's weight decay, on the chosen parts only")
    max_grad_norm: Rate = Field(default=1.0, description="gradients are clipped to this norm")
    max_length: Count = Field(default=256, description="tokens per example, longer ones are cut")
    save_steps: Count = Field(default=50, description="steps between checkpoints")
    beta: Rate = Field(default=0.1, description="pull towards the base model, of DPO and GRPO")
    gradient_checkpointing: Flag = Field(default=False, description="save memory, take longer")
    prefix_cache: CacheSize = Field(
        default="auto", description="states kept between epochs: auto, none, or a size (1GB)"
    )
    arguments: Options = Field(
        default={}, description="other fields of the trainer's arguments, which may also be written as keys of train"
    )


class Evaluate(Section):
    """How before and after are compared."""

    max_new_tokens: AnswerLength = Field(
        default="auto", description="length of an answer (auto: a little more than the longest right one)"
    )
    metric: Metric = Field(
        default="auto", description="what is measured (auto: as the rows are), several joined by +: exact_match + loss"
    )
    lm_eval: Place | None = Field(
        default=None, description="tasks of lm-eval, by name or as files, between commas: piqa, tasks/mine.yaml"
    )
    lm_eval_limit: Count | None = Field(default=None, description="examples of each of these tasks (default: all)")
    batch_size: Count = Field(default=50, description="questions per batch")
    retention: Kept = Field(default="self", description="text that must stay as likely: self, none, or a file")
    retention_examples: Count = Field(default=32, description="texts of retention")
    retention_tokens: Count = Field(default=48, description="tokens per text of retention")
