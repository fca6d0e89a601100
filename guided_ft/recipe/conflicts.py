"""Values of a recipe that are right alone and wrong together. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ..errors import did_you_mean
from ..plan.modes import MODES, misfits
from ..scorers.catalogue import CATALOGUE
from .fields import kept_texts
from .mends import Problem, spell
from .says import listed

NAMES = {"reasoning_gym": "chain_sum", "hub": "owner/dataset", "sample": "word_problems"}
"""Sources whose data has a name, and one as an example."""

READ_BY = {"path": "file", "test_path": "file", "subset": "hub", "fallback": "hub"}
"""Keys of the data that one source alone reads."""


def conflicts(data: Mapping[str, object], recipe: type[BaseModel]) -> list[Problem]:
    """Values that are right alone and wrong together.

    Works on data that may be wrong elsewhere, so that all problems are told at once.
    """

    def value(name: str, key: str) -> Any:
        part = data.get(name, {})
        if isinstance(part, BaseModel):
            return getattr(part, key)
        fields = type(recipe.model_fields[name].default).model_fields
        return part.get(key, fields[key].default) if isinstance(part, Mapping) else None

    found: list[Problem] = []
    source, mode = value("data", "source"), value("train", "mode")
    if source == "file" and value("data", "path") is None:
        found.append(("data.path", "missing, source file needs one (write path: examples.jsonl)"))
    if isinstance(source, str) and source in NAMES and value("data", "name") is None:
        example = NAMES[source]
        found.append(("data.name", f"missing, source {source} needs one (write name: {example})"))
    for key, reader in READ_BY.items():
        if source in (*NAMES, "file") and source != reader and value("data", key) is not None:
            found.append((f"data.{key}", f"source {source} has none (remove it, or write source: {reader})"))
    for key in ("train", "test"):
        if source == "reasoning_gym" and str(value("data", key)).endswith("%"):
            found.append((f"data.{key}", "a generator draws without end, so it has no shares (write a number)"))
    found += _of_mode(mode, value("train", "rank"), value("train", "mode_options"), data.get("quantization"))
    found += _of_map(mode, {key: value(section, key) for key, section in _OF_MAPS.items()}, recipe)
    trainer, pairs = value("train", "trainer"), value("data", "preference")
    if trainer == "dpo" and source == "reasoning_gym" and pairs is False:
        found.append(("data.preference", "trainer dpo needs pairs of answers (write preference: true)"))
    if trainer in ("sft", "grpo") and source == "reasoning_gym" and pairs is True:
        mend = "write preference: false, or trainer: dpo"
        found.append(("data.preference", f"trainer {trainer} learns single answers ({mend})"))
    found += _of_method(value("localize", "method"), value("localize", "retain"), trainer)
    if trainer == "grpo" and value("train", "reward") is None:
        found.append(("train.reward", "missing, trainer grpo needs one (write reward: exact_match)"))
    found += _of_steps(value("train", "steps"), value("train", "epochs"), value("train", "warmup_steps"))
    if trainer in ("sft", "dpo") and value("train", "reward") is not None:
        found.append(("train.reward", f"trainer {trainer} has none (remove it, or write trainer: grpo)"))
    return found


def too_warm(warmup: int, steps: int) -> str | None:
    """Say that a warm-up is longer than its training; None if it is not."""
    if not warmup or warmup < steps:
        return None
    return f"a warm-up of {warmup} in a training of {steps} steps never reaches the learning rate (write less)"


def _of_steps(steps: object, epochs: object, warmup: object) -> list[Problem]:
    """A warm-up that outlasts the training. How many steps epochs make, only the rows tell."""
    if not (type(steps) is type(warmup) is int) or epochs is not None:
        return []
    told = too_warm(warmup, steps)
    return [("train.warmup_steps", told)] if told else []


_OF_MAPS = {"method": "localize", "options": "localize", "kinds": "select", "strategy": "select"}
"""What is asked of a map and a choice, and the section that it stands in."""


def _of_map(name: object, asked: Mapping[str, object], recipe: type[BaseModel]) -> list[Problem]:
    """What is asked of a map or a choice that the mode has no use for."""
    if not isinstance(name, str) or name not in MODES:
        return []
    usual = {key: getattr(recipe.model_fields[section].default, key) for key, section in _OF_MAPS.items()}
    asked = {key: tuple(value) if isinstance(value, list) else value for key, value in asked.items()}
    return [(f"{_OF_MAPS[key]}.{key}", why) for key, why in misfits(name, asked, usual)]


def _of_method(name: object, retain: object, trainer: object) -> list[Problem]:
    """A method that compares sets, and only one set; or one that does not, and several."""
    method = CATALOGUE.get(name) if isinstance(name, str) else None
    if method is None:
        return []
    if not method.compares:
        several = isinstance(retain, str) and len(kept_texts(retain)) > 1
        mend = "name one, or write method: specificity"
        return [("localize.retain", f"method {name} holds the task against one text ({mend})")] if several else []
    both = method.own_sets and trainer == "dpo"
    if retain != "none" or both:
        return []
    mend = "write self, a file or a sample"
    return [("localize.retain", f"method {name} compares the task with another set, and there is none ({mend})")]


def _of_mode(name: object, rank: object, options: object, quantization: object) -> list[Problem]:
    """What a mode does not take."""
    mode = MODES.get(name) if isinstance(name, str) else None
    if mode is None:
        return []
    found: list[Problem] = []
    if rank is not None and not mode.takes_rank():
        takers = listed(f"mode: {other}" for other, m in MODES.items() if m.takes_rank())
        found.append(("train.rank", f"mode {name} has none (remove it, or write {takers})"))
    for key in options if isinstance(options, Mapping) else ():
        if key not in mode.options():
            mend = did_you_mean(str(key)[:60], mode.options()) if mode.options() else "it has none"
            found.append((f"train.mode_options.{spell([key])}", f"mode {name} has no such option ({mend})"))
    if quantization in ("nf4", "int8") and mode.trains_base:
        other = next(other for other, m in MODES.items() if not m.trains_base)
        found.append(("quantization", f"mode {name} trains the weights themselves (write none, or mode: {other})"))
    return found
