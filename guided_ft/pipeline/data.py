"""Rows to train and test on, as a recipe names them. Imports no torch."""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import sys
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..errors import GuidedError
from ..recipe.fields import parse_share
from ..recipe.strict_yaml import shown
from ..system.jsonl import read_jsonl

if TYPE_CHECKING:
    from ..recipe.recipe import Data

Row = dict[str, Any]

DRAWN, TESTED = 800, 100
"""``auto``: so many questions of a generator to train on; at most so many to test with, which all are answered."""

MAX_ROWS = 100_000
"""``auto``: so many rows of a file train at most; more have to be asked for."""

ALIASES = {"question": "prompt", "instruction": "prompt", "answer": "completion", "output": "completion"}
"""Column names of well-known data sets, and what TRL calls them."""

COLUMNS = {"sft": ("prompt", "completion"), "dpo": ("prompt", "chosen", "rejected")}
"""What each trainer needs of a row: all text, or all lists of messages."""


def load_rows(data: Data, seed: int = 0, trainer: str = "sft") -> tuple[list[Row], list[Row]]:
    """Return training and test rows in TRL's formats; no prompt is in both.

    Raises:
        GuidedError: if there are not enough different rows, or one of them is not as the trainer needs it.
    """
    # Only a generator asks how many to draw, and it knows no shares.
    wanted = sum(split(data, 0, None)) if data.source == "reasoning_gym" else 0
    train, test = SOURCES[data.source](data, seed, wanted, trainer)
    rows = _unique(_kept(train, data))
    if test is None:
        num_train, num_test = split(data, len(rows), None)
        test, train = rows[:num_test], rows[num_test : num_test + num_train]
    else:
        test = _unique(_kept(test, data))
        test = test[: split(data, 0, len(test))[1]]
        asked = {_key(row) for row in test}
        rows = [row for row in rows if _key(row) not in asked]
        num_train, num_test = split(data, len(rows), len(test))
        train = rows[:num_train]
    if len(test) < num_test or len(train) < num_train:
        kept = "" if data.contains is None else f" contain {shown(data.contains)} (data.contains)"
        mend = "lower them" if data.contains is None else "change data.contains, or lower them"
        raise GuidedError(
            f"data: {len(train)} different training and {len(test)} test rows{kept}, but train={num_train} and "
            f"test={num_test} were asked for ({mend})"
        )
    return train, test


def split(data: Data, rows: int, tests: int | None) -> tuple[int, int]:
    """How many rows train and how many test, at least one to train.

    Args:
        rows: how many different ones there are.
        tests: how many of a file of tests; None: the tests are taken from the rows.
    """
    drawn = data.source == "reasoning_gym"
    # None: auto, which is what the other leaves.
    train, test = _amount(data.train, rows), _amount(data.test, rows if tests is None else tests)
    if test is None and tests is not None:
        test = min(TESTED, tests)
    if test is None:
        test = TESTED if drawn else max(1, min(TESTED, rows // 5, rows - (train or 1)))
    if train is None:
        train = DRAWN if drawn else max(1, min(MAX_ROWS, rows if tests is not None else rows - test))
    return train, test


def answer_of(row: Row) -> str:
    """The text of a row's right answer."""
    found: Any = row.get("completion", row.get("chosen"))
    return found if isinstance(found, str) else found[-1]["content"]


def _amount(asked: str | int, rows: int) -> int | None:
    if asked == "auto":
        return None
    share = parse_share(asked) if isinstance(asked, str) else 0.0
    return asked if isinstance(asked, int) else max(share > 0, round(share * rows))


def _reasoning_gym(data: Data, seed: int, wanted: int, trainer: str) -> tuple[list[Row], None]:
    reasoning_gym = _import_reasoning_gym()
    clash = sorted({"seed", "size"} & set(data.options))
    if clash:
        raise GuidedError(f"data.options: {clash[0]!r} is set by the recipe (use seed, data.train and data.test)")
    # Item i is drawn with seed start + i, so seeds lie far apart; and 0 would mean a different draw every time.
    start = (seed << 24) + 1
    rows: list[Row] = []
    # Small generators repeat questions, and `contains` drops some: draw more until there are enough different ones.
    for size in (2 * wanted << doubling for doubling in range(6)):
        try:
            generator = reasoning_gym.create_dataset(data.name, size=size, seed=start, **data.options)
        except (ValueError, TypeError, AssertionError, AttributeError) as error:
            raise GuidedError(f"data: reasoning_gym cannot make {data.name!r} ({str(error).splitlines()[0]})") from None
        rows = _unique(_kept((_question(item, data.preference, seed) for item in generator), data))
        if len(rows) >= wanted:
            break
    return rows, None


def _import_reasoning_gym() -> Any:
    """Import reasoning_gym, also where pycosat is missing: it needs a compiler, and only one logic puzzle needs it."""
    try:
        if "pycosat" not in sys.modules and importlib.util.find_spec("pycosat") is None:
            sys.modules["pycosat"] = types.ModuleType("pycosat")
        return importlib.import_module("reasoning_gym")
    except ModuleNotFoundError as error:
        raise GuidedError(f"data: {error.name!r} is not installed (run: pip install reasoning-gym)") from None


def _question(item: Row, preference: bool, seed: int) -> Row:
    prompt, answer = item["question"], str(item["answer"])
    space = "" if prompt[-1:].isspace() else " "
    if not preference:
        return {"prompt": prompt, "completion": space + answer}
    return {"prompt": prompt, "chosen": space + answer, "rejected": space + _wrong_number(answer, f"{seed}:{prompt}")}


def _wrong_number(answer: str, seed: str) -> str:
    """A near miss: the kind of wrong answer that a preference should rule out."""
    try:
        number = int(answer)
    except ValueError:
        raise GuidedError(
            f"data.preference: {answer!r} is not a whole number (preferences are made for numbers)"
        ) from None
    return str(number + random.Random(seed).choice([-11, -10, -9, -2, -1, 1, 2, 9, 10, 11]))


def _file(data: Data, seed: int, wanted: int, trainer: str) -> tuple[list[Row], list[Row] | None]:
    train = _checked(read_jsonl(str(data.path)), f"{data.path}:", trainer)
    if data.test_path:
        return train, _checked(read_jsonl(data.test_path), f"{data.test_path}:", trainer)
    random.Random(seed).shuffle(train)
    return train, None


def _hub(data: Data, seed: int, wanted: int, trainer: str) -> tuple[list[Row], None]:
    from datasets import load_dataset

    try:
        rows = [dict(row) for row in load_dataset(data.name, split=data.split)]
    except Exception as error:  # datasets raises many kinds
        raise GuidedError(f"data: {data.name!r} cannot be loaded ({str(error).splitlines()[0][:160]})") from None
    rows = _checked(enumerate(rows), f"data: {data.name!r} row ", trainer)
    random.Random(seed).shuffle(rows)
    return rows, None


SOURCES: dict[str, Callable[[Any, int, int, str], tuple[list[Row], list[Row] | None]]] = {
    "reasoning_gym": _reasoning_gym,
    "file": _file,
    "hub": _hub,
}


def _checked(numbered: Iterable[tuple[int, Row]], where: str, trainer: str) -> list[Row]:
    """The rows with TRL's names. Raises GuidedError, with the row's number, for one that the trainer cannot take."""
    rows: list[Row] = []
    forms: set[str] = set()
    for number, row in numbered:
        rows.append(_renamed(row))
        forms |= {_form(rows[-1].get(name)) for name in COLUMNS[trainer]}
        if len(forms) > 1 or "" in forms:
            raise GuidedError(
                f"{where}{number}: not a row for trainer {trainer}, with keys {shown(', '.join(row), 80)} (give every "
                f"row {' + '.join(COLUMNS[trainer])}, all text or all lists of messages)"
            )
    return rows


def _form(value: Any) -> str:
    """``text``, ``messages``, or nothing for what is neither."""
    if isinstance(value, str):
        return "text"
    parts = value if isinstance(value, list) else []
    told = [isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in parts]
    return "messages" if told and all(told) else ""


def _renamed(row: Row) -> Row:
    """Give well-known columns TRL's names; an answer gets the space that sets it off from its prompt."""
    if "prompt" in row:
        return row
    more = row.get("input") if "instruction" in row else None
    row = {ALIASES.get(key, key): value for key, value in row.items()}
    if isinstance(more, str) and more.strip() and isinstance(row["prompt"], str):
        # Alpaca's: what the instruction is about.
        row["prompt"] = f"{row['prompt']}\n\n{more}"
    if isinstance(row.get("completion"), str) and isinstance(row.get("prompt"), str):
        row = {"prompt": row["prompt"], "completion": " " + row["completion"].lstrip()}
    return row


def _kept(rows: Iterable[Row], data: Data) -> list[Row]:
    return [row for row in rows if data.contains is None or data.contains in str(row.get("prompt", row))]


def _unique(rows: Iterable[Row]) -> list[Row]:
    """The first row of each prompt, in order."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(_key(row), row)
    return list(first.values())


def _key(row: Row) -> str:
    return json.dumps(row.get("prompt", row), sort_keys=True, default=str)
