"""Pydantic's complaints about a recipe, said again as lines that name the key and the mend. Imports no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ..errors import GuidedError, did_you_mean
from .says import Says, leaves, listed, section, show, wrong_word
from .trl_fields import OWN, TRAINERS, fields

MAX_PROBLEMS = 50
_HINTS = {"trust_remote_code": "a recipe cannot ask for that; give --trust-remote-code on the command line"}

_OTHER_NAMES = {
    **{name: "train.learning_rate" for name in ("lr", "rate")},
    **{name: "train.max_length" for name in ("max_seq_length", "max_seq_len", "cutoff_len")},
    **{name: "data.path" for name in ("file", "dataset", "dataset_path", "train_file", "data_path")},
    **{name: "train.rank" for name in ("r", "lora_r", "lora_rank")},
    **{name: "model" for name in ("model_name", "model_name_or_path", "base_model")},
    **{name: "train.batch_size" for name in ("batch", "bs")},
    **{"dataset_name": "data.name", "warmup": "train.warmup_steps", "scheduler": "train.lr_scheduler"},
    **{"grad_accum": "train.accumulate", "metrics": "evaluate.metric", "template": "data.prompt"},
}
"""What others call the keys of a recipe; the fields of TRL's own are in ``trl_fields``."""

Problem = tuple[str, str]
"""A key path, and what is wrong there."""


class RecipeError(GuidedError):
    """Everything that is wrong with a recipe, one line per problem.

    Args:
        problems: key paths and what is wrong there.
        where: the file's name, or a function from key path to the name of the source.
    """

    def __init__(self, problems: Sequence[Problem], where: str | Callable[[str], str] = "recipe") -> None:
        self.problems = tuple(problems)
        source = where if callable(where) else lambda path: where
        lines = [f"{source(path)}: {path}: {text}" for path, text in self.problems[:MAX_PROBLEMS]]
        if len(self.problems) > MAX_PROBLEMS:
            rest = len(self.problems) - MAX_PROBLEMS
            lines.append(f"{source('')}: {rest} more problems (mend these first)")
        super().__init__("\n".join(lines))


def translate(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Return the problems behind a ValidationError of ``model``; those that no one will be shown have no text."""
    found = enumerate(error.errors(include_url=False))
    # Looking for the key that was meant takes longest, and a wrong file may hold thousands.
    return [(spell(e["loc"]), _say(e, model) if i < MAX_PROBLEMS else "") for i, e in found]


def spell(loc: Sequence[object]) -> str:
    """A key path on one line, odd keys in quotes."""
    parts = (str(part) for part in loc if part != "[key]")
    return ".".join(p if re.fullmatch(r"[\w-]{1,60}", p) else show(p) for p in parts)


def _say(error: Any, model: type[BaseModel]) -> str:
    loc, value = error["loc"], error["input"]
    told = error.get("ctx", {}).get("error")
    if isinstance(told, GuidedError):
        return str(told)
    if error["type"] == "extra_forbidden":
        return f"unknown key ({unknown_key(loc, model)})"
    if loc[-1] == "[key]" or error["type"] == "invalid_key":
        return "a key must be text (put it in quotes)"
    info = _field(loc, model)
    says = next((m for m in info.metadata if isinstance(m, Says)), None) if info else None
    if info is not None and says is not None:
        example = says.example if info.default is None else info.default
        return f"expected {says.expects}, got {show(value)} ({says.mend.format(default=example)})"
    if info is not None and error["type"] == "literal_error":
        return wrong_word(value, get_args(info.annotation))
    if section(info):
        return f"expected keys below it, got {show(value)} ({_section_mend(loc[-1], value, model)})"
    return f"cannot be read, got {show(value)} (see a shipped recipe: guided-ft recipes)"  # pragma: no cover


def _field(loc: Sequence[Any], model: type[BaseModel]) -> FieldInfo | None:
    info: FieldInfo | None = None
    inside: type[BaseModel] | None = model
    for key in loc:
        info = inside.model_fields.get(key) if inside else None
        inside = section(info)
    return info


def unknown_key(loc: Sequence[object], model: type[BaseModel]) -> str:
    """The mend for a key that does not exist: the nearest sibling, or the same word in another section."""
    key = str(loc[-1])[:60]
    parent = section(_field(loc[:-1], model)) or model
    if key in _HINTS:
        return _HINTS[key]
    other = _OTHER_NAMES.get(key) or OWN.get(key)
    if other and other != key:
        return f"did you mean {other!r}{'' if '.' in other else ' at the top level'}?"
    paths = leaves(model)
    if "." in key and key in paths:
        above, _, leaf = key.rpartition(".")
        return f"write {leaf} indented below {above}"
    elsewhere = [path for path in paths if path.rpartition(".")[2] == key]
    if elsewhere:
        # A full path has a dot; a key of the top level needs the words.
        return f"did you mean {listed(repr(p) + ('' if '.' in p else ' at the top level') for p in elsewhere)}?"
    if len(loc) == 1 and any(key in fields(trainer) for trainer in TRAINERS):
        return f"did you mean 'train.{key}'?"
    if not difflib.get_close_matches(key, parent.model_fields):
        takers = [trainer for trainer in TRAINERS if key in fields(trainer)] if loc[0] == "train" else []
        if takers:
            return f"trainer {listed(takers)} has it"
        trained = [field for trainer in TRAINERS for field in fields(trainer)] if loc[0] == "train" else []
        if difflib.get_close_matches(key, trained, n=1):
            return did_you_mean(key, trained)
        near = difflib.get_close_matches(key, {path.rpartition(".")[2]: path for path in paths}, n=1)
        if near:
            return unknown_key((near[0],), model)
    return did_you_mean(key, parent.model_fields)


def _section_mend(key: str, value: object, model: type[BaseModel]) -> str:
    same = [path for path in leaves(model) if path.endswith(f".{key}")]
    if same and isinstance(value, int):
        return f"did you mean {listed(repr(path) for path in same)}?"
    first = next(path for path in leaves(model) if path.startswith(f"{key}."))
    return f"indent keys such as {first} below it, or remove the line"
