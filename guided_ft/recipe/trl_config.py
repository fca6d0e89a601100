"""A YAML file as TRL's own command line reads it, plus a ``guided:`` block. Imports no torch and no TRL.

Its keys are the fields of TRL's arguments for scripts, models and the trainer, flat, as ``TrlParser`` takes them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from ..errors import GuidedError, did_you_mean
from ..plan.plan import DEFAULT_MODE, Plan
from ..scorers.settings import LocalizeOptions
from ..selection.settings import SelectOptions
from .extends import spoken
from .fields import (
    Budget,
    CacheSize,
    Flag,
    Kept,
    Kinds,
    LearningRate,
    Method,
    Mode,
    Options,
    Place,
    Rank,
    Rate,
    Seed,
    Steps,
    Strategy,
    Text,
)
from .mends import Problem, RecipeError, translate
from .sections import Section
from .strict_yaml import parse, read_mapping, shown
from .trl_fields import annotated, check_type, fields

_ASKED, _SPENT, _PLAN = LocalizeOptions, SelectOptions, Plan


class Guided(Section):
    """What is trained: the arguments of ``GuidedCallback``."""

    method: Method = Field(default=_ASKED.method, description="scorer of units (neurons, heads, layers)")
    retain: Kept = Field(default=_ASKED.retain, description="what must be kept: self, none, a file or a sample")
    options: Options = Field(default={}, description="options of the scorer")
    budget: Budget = Field(default=_SPENT.budget, description="share or number of parameters to train")
    kinds: Kinds = Field(default=_SPENT.kinds, description="units that may be chosen: neuron, head, layer")
    strategy: Strategy = Field(
        default=_SPENT.strategy,
        description="top, random or shuffled; of units also bottom, of directions also even and random_even",
    )
    first_layer: Steps = Field(default=_SPENT.first_layer, description="first layer that may be chosen")
    mode: Mode = Field(default=DEFAULT_MODE, description="what is chosen and how it trains")
    rank: Rank = Field(default=_PLAN.rank, description="rank of lora, or of each slice")
    mode_options: Options = Field(default={}, description="options of the mode")
    lr_scale: Rate = Field(default=_PLAN.lr_scale, description="factor on the learning rate")
    learning_rate: LearningRate = Field(
        default="auto", description="a number, or auto: the plan's, in place of a default of TRL's"
    )
    seed: Seed = Field(default=_ASKED.seed, description="of the sampled text and of random choices")
    prefix_cache: CacheSize = Field(default="none", description="states kept between epochs: auto, none, or a size")


class TrlConfig(Section):
    """One training, as ``trl sft --config`` and ``trl dpo --config`` would do it, of what ``guided`` chooses."""

    trainer: Literal["sft", "dpo"]
    model_name_or_path: Place = Field(default="smollm2-135m-instruct", description="hub id or folder of the model")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="of the weights")
    load_in_4bit: Flag = Field(default=False, description="quantize the base to nf4")
    load_in_8bit: Flag = Field(default=False, description="quantize the base to int8")
    dataset_name: Place = Field(description="hub id or folder of the data, or a file")
    dataset_config: Text | None = Field(default=None, description="named part of the data set")
    dataset_train_split: Text = Field(default="train", description="split to train on")
    guided: Guided = Guided()
    arguments: dict[str, Any] = Field(default={}, description="fields of SFTConfig or DPOConfig")

    @classmethod
    def load(cls, path: str | os.PathLike[str], trainer: str, overrides: Sequence[str] = ()) -> TrlConfig:
        """Read a file for ``sft`` or ``dpo`` and set ``key=value`` in it, ``guided.budget=1%`` too.

        Raises:
            GuidedError: with one line for each key that is unknown or holds what it cannot.
        """
        where = spoken(Path(path))
        data = read_mapping(path, where)
        for override in overrides:
            _put(data, override)
        known = {key: kind for key, kind in fields(trainer).items() if not _refused(key)}
        arguments = {key: value for key, value in data.items() if key in known}
        problems = [problem for key, value in arguments.items() for problem in _wrong_type(key, value, known[key])]
        rest = {key: value for key, value in data.items() if key not in known}
        strange = [key for key in rest if key not in cls.model_fields or key in ("trainer", "arguments")]
        problems += [(key, _mend(key, trainer)) for key in strange]
        rest = {key: value for key, value in rest.items() if key not in strange}
        if rest.get("load_in_4bit") is True and rest.get("load_in_8bit") is True:
            problems.append(("load_in_8bit", "a base of 4 bits has none (remove one)"))
        if "dataset_name" not in rest:
            problems.append(("dataset_name", "missing (write a hub id, a folder or a file)"))
            rest["dataset_name"] = "none"
        try:
            made = cls(trainer=trainer, arguments=arguments, **rest)  # type: ignore[arg-type]
        except ValidationError as error:
            raise RecipeError([*problems, *translate(error, cls)], where) from None
        if problems:
            raise RecipeError(problems, where)
        return made

    @property
    def quantization(self) -> str:
        return "nf4" if self.load_in_4bit else "int8" if self.load_in_8bit else "none"


def _put(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not key.strip() or not equals:
        raise GuidedError(f"override: {shown(override)} is not KEY=VALUE (write it like guided.budget=1%)")
    *above, last = key.strip().split(".")
    for part in above:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise GuidedError(f"override: {key.strip()}: {part} has no keys below it (write {part}=...)")
    data[last] = parse(value, f"override: {key.strip()}", lines=False)


def _wrong_type(key: str, value: Any, annotation: str) -> list[Problem]:
    try:
        check_type(annotation, value)
    except GuidedError as error:
        return [(key, str(error))]
    return []


_LORA = "guided trains what it chooses (remove it, and write guided: {mode: lora, rank: 8})"
_MENDS: Mapping[str, str] = {
    "datasets": "a mixture is not read (write dataset_name)",
    "env": "no variables are set from a file (set them in the shell)",
    "trust_remote_code": "a file cannot ask for that (give --trust-remote-code on the command line)",
    "torch_dtype": "unknown key (did you mean 'dtype'?)",
    "use_peft": _LORA,
}


def _refused(key: str) -> bool:
    return key in _MENDS or key.startswith(("lora_", "use_rslora", "use_dora"))


def _mend(key: str, trainer: str) -> str:
    if _refused(key):
        return _MENDS.get(key, _LORA)
    others = annotated("trl", "trainer/model_config.py") | annotated("trl", "scripts/utils.py")
    if key in others:
        return "this key of TRL's is not read here (remove it, or take recipes/scripts, where all of them are)"
    own = {*TrlConfig.model_fields} - {"trainer", "arguments"}
    return f"unknown key ({did_you_mean(str(key)[:60], {*fields(trainer), *own})})"
