"""Rows to train and test on, as a recipe names them. Imports no torch."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import random
import sys
import types
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..errors import GuidedError
from ..recipe.fields import parse_share
from ..recipe.strict_yaml import shown
from ..task.given import Row
from ..task.read_file import read_file
from ..task.reader import Reader, answered, asked, read_all
from ..task.samples import ASKED, sample
from .hub import read_hub

if TYPE_CHECKING:
    from ..recipe.recipe import Data

logger = logging.getLogger("guided_ft")

DRAWN, TESTED = 800, 100
"""``auto``: so many questions of a generator to train on; at most so many to test with, which all are answered."""

MAX_ROWS = 100_000
"""``auto``: so many rows of a file train at most; more have to be asked for."""


def load_rows(data: Data, seed: int = 0, trainer: str = "sft") -> tuple[list[Row], list[Row]]:
    """Return training and test rows in TRL's words; no question of a test row is trained on, be it early in a
    conversation.

    The same row twice counts once. A question may have several training rows, but only one test row.

    Raises:
        GuidedError: if there are not enough different rows, or one of them is not as the trainer needs it.
    """
    # Only a generator asks how many to draw, and it knows no shares.
    wanted = sum(split(data, 0, None)) if data.source == "reasoning_gym" else 0
    found, tests = SOURCES[data.source](data, seed, wanted)
    rows = _different(_kept(found, data), _whole)
    if data.source != "reasoning_gym":  # whose questions are made as data.preference says
        _check_trainer([*rows[:1], *(tests or [])[:1]], trainer)
    questions = _different(rows if tests is None else _kept(tests, data), question_of)
    asked_for = split(data, len(rows), None if tests is None else len(questions))
    test = questions[: asked_for[1]]
    held_out = {question_of(row) for row in test}
    apart = [row for row in rows if question_of(row) not in held_out]
    train = [row for row in apart if held_out.isdisjoint(questions_in(row))]
    if len(train) < len(apart):
        logger.warning(
            "data: %d training rows are conversations that hold the question of a test row, and are left out",
            len(apart) - len(train),
        )
    train = train[: asked_for[0]]
    # A share, and what the other leaves, may turn out smaller where questions repeat.
    short = len(train) < (asked_for[0] if isinstance(data.train, int) else 1)
    if short or (len(test) < asked_for[1] and isinstance(data.test, int)):
        # Where there are too few at all, how they would be shared out says nothing.
        few = tests is None and len(rows) < sum(asked_for)
        there = f"{len(rows)} different" if few else f"{len(train)} different training and {len(test)} test"
        kept = "" if data.contains is None else f" contain {shown(data.contains)} (data.contains)"
        mend = "lower them" if data.contains is None else "change data.contains, or lower them"
        raise GuidedError(
            f"data: {there} rows{kept}, but train={asked_for[0]} and test={asked_for[1]} were asked for ({mend})"
        )
    return train, test


def split(data: Data, rows: int, tests: int | None) -> tuple[int, int]:
    """How many rows train and how many test, at least one to train; what ``auto`` leaves out is told.

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
        left = rows if tests is not None else rows - test
        train = DRAWN if drawn else max(1, min(MAX_ROWS, left))
        if not drawn and left > MAX_ROWS:
            logger.warning("data: auto trains on %d of %d rows (data.train: a number takes more)", train, left)
    return train, test


def _amount(asked: str | int, rows: int) -> int | None:
    if asked == "auto":
        return None
    share = parse_share(asked) if isinstance(asked, str) else 0.0
    return asked if isinstance(asked, int) else max(share > 0, round(share * rows))


def _reasoning_gym(data: Data, seed: int, wanted: int) -> tuple[list[Row], None]:
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
        rows = _different(_kept((_question(item, data.preference, seed) for item in generator), data), question_of)
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


def _file(data: Data, seed: int, wanted: int) -> tuple[list[Row], list[Row] | None]:
    reader = _reader(data)
    train, *tests = (read_all(read_file(path), reader, path) for path in (str(data.path), data.test_path) if path)
    # A file may be sorted, by its labels for one, and only some of its rows are localized or tested with.
    for rows in (train, *tests):
        random.Random(seed).shuffle(rows)
    return train, tests[0] if tests else None


def _sample(data: Data, seed: int, wanted: int) -> tuple[list[Row], list[Row] | None]:
    name, reader = str(data.name), _reader(data)
    rows = sample(name, seed)

    def read(rows: list[Row]) -> list[Row]:
        numbered = [(f"data: sample {name!r} row {i}", row) for i, row in enumerate(rows)]
        return read_all(numbered, reader, f"data: sample {name!r}")

    return read(rows), read([ASKED[name](row) for row in rows]) if name in ASKED else None


SOURCES: dict[str, Callable[[Any, int, int], tuple[list[Row], list[Row] | None]]] = {
    "reasoning_gym": _reasoning_gym,
    "file": _file,
    "hub": read_hub,
    "sample": _sample,
}


def _reader(data: Data) -> Reader:
    return Reader(data.format, data.columns, data.prompt)


def _check_trainer(rows: Iterable[Row], trainer: str) -> None:
    for row in rows:
        if "input_ids" in row:
            raise GuidedError("data: ready token ids cannot be tested with (write text, or use Task.load in a script)")
        if ("chosen" in row) != (trainer == "dpo"):
            what = "pairs (chosen + rejected)" if "chosen" in row else "single answers"
            mend = "dpo" if "chosen" in row else "sft"
            raise GuidedError(
                f"data: the rows are {what}, and trainer {trainer} cannot learn them (write trainer={mend})"
            )
        if trainer == "grpo" and not answered(row):
            raise GuidedError(
                "data: the rows ask nothing that has a right answer, which trainer grpo rewards (give prompt + "
                "completion, or write trainer=sft)"
            )


def _kept(rows: Iterable[Row], data: Data) -> list[Row]:
    return [row for row in rows if data.contains is None or data.contains in str(asked(row) or row)]


def _different(rows: Iterable[Row], key: Callable[[Row], str]) -> list[Row]:
    """The first row of each key, in order."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(key(row), row)
    return list(first.values())


def _whole(row: Row) -> str:
    return json.dumps(row, sort_keys=True, default=str)


def question_of(row: Row) -> str:
    """What the model is asked, as far as a chat template shows it: who says what, and the tools."""
    return _key(_said(row), row)


def questions_in(row: Row) -> list[str]:
    """All that a row shows the answers to, in order: of a conversation, what was said before each answer in it."""
    question = _said(row)
    answers = [i for i, said in enumerate(question) if said[0] == "assistant"] if isinstance(question, list) else []
    return [_key(question[:i], row) for i in answers] + [_key(question, row)]


def _said(row: Row) -> Any:
    question: Any = asked(row) or row.get("messages") or row.get("text")
    if isinstance(question, list):
        return [[m["role"], (m.get("content") or "").strip(), m.get("tool_calls")] for m in question]
    return question


def _key(question: Any, row: Row) -> str:
    return json.dumps([question, row.get("tools")], sort_keys=True, default=str)
