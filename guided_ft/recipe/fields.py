"""The kinds of values in a recipe: a check for each, and the type that has it. Imports no torch."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ..errors import GuidedError
from .says import Says, show, wrong_word
from .strict_yaml import CONTROL

NAME_BYTES = 200
"""Of a run's name, at most: systems give a file's name 255, and endings are added to it."""


# -- checks: each returns the value or raises GuidedError("what (mend)"); the key is put before it later --------------
def _text(value: object) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise GuidedError(f"expected text, got {show(value)} (write some or leave the key out)")
    if not isinstance(value, str):
        mend = "put it in quotes" if isinstance(value, bool | int | float) else "write a single text"
        raise GuidedError(f"expected text, got {show(value)} ({mend})")
    if CONTROL.search(value):
        raise GuidedError(f"a control character in {show(value)} (remove it)")
    return value


def _free_text(value: object) -> str:
    # Spaces alone, or nothing, may well be meant.
    return value if isinstance(value, str) and value.strip(" ") == "" else _text(value)


def _place(value: Any) -> str:
    if "://" in _text(value):
        raise GuidedError(f"{show(value)} is a URL, and these are not read (write a hub id or a path)")
    return value


def _name(value: Any) -> str:
    # The name becomes a folder and part of the names of files, on Windows too.
    if any(c in _text(value) for c in '/\\:*?"<>|\n') or value.startswith(".") or len(value) > 100:
        raise GuidedError(f"{show(value)} cannot name a folder (use up to 100 letters, digits, - and _)")
    if (size := len(value.encode())) > NAME_BYTES:
        raise GuidedError(f"{show(value)} has {size} bytes, more than the {NAME_BYTES} of a name (use fewer letters)")
    return value


def _kept(value: object) -> str:
    from ..task.read_file import ENDINGS
    from ..task.samples import SAMPLES

    if isinstance(value, str):
        texts = kept_texts(value)
        if value in ("self", "none") or (texts and all(t in SAMPLES or t.lower().endswith(ENDINGS) for t in texts)):
            return _place(value)
    mend = f"write self, a path that ends in .jsonl or .txt, or a sample: {', '.join(sorted(SAMPLES))}"
    if value is None or value is False:
        mend = "write none"
    elif isinstance(value, str) and (near := difflib.get_close_matches(value[:60], ("self", "none", *SAMPLES), n=1)):
        mend = f"did you mean '{near[0]}'?"
    raise GuidedError(f"expected self, none, a sample or a .jsonl or .txt file, got {show(value)} ({mend})")


def kept_texts(value: str) -> list[str]:
    """The files and samples that a text names between commas; the path of one file may have commas of its own."""
    return [value] if os.path.isfile(value) else [part.strip() for part in value.split(",") if part.strip()]


def _sample(value: object) -> str:
    from ..task.samples import SAMPLES

    return _known(value, SAMPLES)


def _format(value: object) -> str:
    from ..task.formats import FORMATS

    return _known(value, {"auto": None, **FORMATS})


def _metric(value: Any) -> str:
    from ..task.measures import OWN, SHIPPED, announced

    names = [part.strip() for part in value.split("+")] if isinstance(value, str) else [value]
    for name in names:
        if not (isinstance(name, str) and name not in (*SHIPPED, "auto") and announced(name)):
            _known(name, dict.fromkeys((*(("auto",) if len(names) == 1 else ()), *SHIPPED, *OWN)))
    return "+".join(dict.fromkeys(names))


def _reward(value: object) -> str:
    from ..task.rewards import REWARDS

    names = [part.strip() for part in value.split("+")] if isinstance(value, str) else [value]
    return "+".join(dict.fromkeys(_known(name, REWARDS) for name in names))


def _columns(value: object) -> dict[str, str]:
    from ..task.formats import TRL

    if not isinstance(value, Mapping):
        raise GuidedError(f"expected a mapping, got {show(value)} (write {{prompt: your column, completion: another}})")
    for ours, theirs in value.items():
        if ours not in TRL:
            other = f"write {{{theirs}: {ours}}}" if theirs in TRL else f"one of: {', '.join(TRL)}"
            raise GuidedError(f"no row has a column {show(ours)} for the trainers ({other})")
        _text(theirs)
    return dict(value)


def _method(value: object) -> str:
    from ..scorers.catalogue import CATALOGUE

    return _known(value, CATALOGUE)


def _strategy(value: object) -> str:
    from ..selection.strategies import DIRECTION_STRATEGIES, STRATEGIES

    return _known(value, {**STRATEGIES, **DIRECTION_STRATEGIES})


def _mode(value: object) -> str:
    from ..plan.modes import MODES

    return _known(value, MODES)


def _known(value: object, table: Mapping[str, object]) -> str:
    if not isinstance(value, str) or value not in table:
        raise GuidedError(wrong_word(value, table))
    return value


def _budget(value: object) -> str | float | int:
    from ..selection.budget import parse_budget

    try:
        if isinstance(value, str | float | int):
            parse_budget(value, total=10**15)  # the model's size is not known yet: any count may be right
            return value
    except ValueError:
        pass
    what = "expected a share above 0 up to 100%, or a number of parameters"
    raise GuidedError(f"{what}, got {show(value)} (write 2%, 0.02 or 100000)")


def _cache_size(value: Any) -> str | int:
    from ..system.files import parse_size

    try:
        if value == "none" or (isinstance(value, str | int) and parse_size(value)):
            return value
    except GuidedError:
        pass
    raise GuidedError(f"expected auto, none or a size, got {show(value)} (write 1GB)")


def _rate(value: object) -> str | float:
    if value == "auto" or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf):
        return value if value == "auto" else float(value)
    raise GuidedError(f"expected auto or a number above 0, got {show(value)} (write a number such as 0.005)")


def _length(value: object) -> str | int:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise GuidedError(f"expected auto or an integer above 0, got {show(value)} (write auto)")


def _amount(least: int) -> BeforeValidator:
    """A number of examples: ``auto``, a count, or a share of all there are."""

    def check(value: Any) -> str | int:
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        share = isinstance(value, str) and re.fullmatch(r"\d{1,2}(\.\d+)?%", value)
        if value == "auto" or (share and parse_share(value) >= least / 1e6):
            return value
        what = f"expected auto, a share below 100% or an integer {'of at least 0' if least == 0 else 'above 0'}"
        raise GuidedError(f"{what}, got {show(value)} (write auto, 20% or 100)")

    return BeforeValidator(check)


def parse_share(value: str) -> float:
    """``20%`` as 0.2."""
    return float(value.removesuffix("%")) / 100


def _kinds(value: object) -> list[str]:
    from ..anatomy.component import KINDS

    if not isinstance(value, list | tuple):
        raise GuidedError(f"expected a list, got {show(value)} (write [head, neuron])")
    if not value:
        raise GuidedError("an empty list chooses nothing (write [head, neuron])")
    for kind in value:
        _known(kind, dict.fromkeys(KINDS))
    if len(set(value)) < len(value):
        raise GuidedError(f"a kind is written twice (write [{', '.join(dict.fromkeys(value))}])")
    return list(value)


def _option(value: object) -> int | float | str | bool:
    if isinstance(value, str):
        return _free_text(value)
    if not isinstance(value, bool | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise GuidedError(f"expected a number, text, true or false, got {show(value)} (write a single value)")
    return value


# -- types ------------------------------------------------------------------------------------------------------------
Count = Annotated[int, Field(strict=True, gt=0), Says("an integer above 0")]
Rank = Annotated[int | None, Field(strict=True, gt=0), Says("an integer above 0", example=8)]
Steps = Annotated[int, Field(strict=True, ge=0), Says("an integer of at least 0")]
# NumPy takes no larger seed.
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32), Says(f"an integer from 0 to {2**32 - 1}")]
Epochs = Annotated[
    float | None, Field(strict=True, gt=0, le=10**6, allow_inf_nan=False), Says("a number of passes above 0", example=3)
]
Rate = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False), Says("a number above 0")]
Decay = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False), Says("a number of at least 0")]
Flag = Annotated[bool, Field(strict=True), Says("true or false", "write true or false")]
Text = Annotated[str, BeforeValidator(_text)]
FreeText = Annotated[str, BeforeValidator(_free_text)]
Place = Annotated[str, BeforeValidator(_place)]
Name = Annotated[str, BeforeValidator(_name)]
Kept = Annotated[str, BeforeValidator(_kept)]
Method = Annotated[str, BeforeValidator(_method)]
Mode = Annotated[str, BeforeValidator(_mode)]
Strategy = Annotated[str, BeforeValidator(_strategy)]
Budget = Annotated[str | float | int, BeforeValidator(_budget)]
CacheSize = Annotated[str | int, BeforeValidator(_cache_size)]
AnswerLength = Annotated[Literal["auto"] | int, BeforeValidator(_length)]
TrainAmount = Annotated[str | int, _amount(least=1)]
TestAmount = Annotated[str | int, _amount(least=0)]
LearningRate = Annotated[Literal["auto"] | float, BeforeValidator(_rate)]
Reward = Annotated[str, BeforeValidator(_reward)]
Sample = Annotated[str, BeforeValidator(_sample)]
Metric = Annotated[str, BeforeValidator(_metric)]
Format = Annotated[str, BeforeValidator(_format)]
Columns = Annotated[dict[str, str], BeforeValidator(_columns)]
Kinds = Annotated[tuple[str, ...], BeforeValidator(_kinds)]
Options = Annotated[
    dict[str, Annotated[int | float | str | bool, BeforeValidator(_option)]],
    Says("a mapping of options", "write it as {{key: value}}"),
]
