"""Traits: which of six a statement about oneself shows."""

from __future__ import annotations

import json
import random
from pathlib import Path

from guided_ft.errors import GuidedError
from guided_ft.system.files import read_text
from guided_ft.task.given import Row

from .suite import Problem

WORDS = {
    "agreeableness": (" kind", " harsh"),
    "interest-in-science": (" scientific", " superstitious"),
    "risk-averse": (" careful", " daring"),
}
"""By file: what is said of who would say the statement, and of who would not."""

HELD = 200
"""Statements that are kept for validation and test."""


def traits(folder: Path) -> Problem:
    """A classification with one word as its answer, of statements by Perez et al. (arXiv 2212.09251).

    Args:
        folder: holds ``agreeableness.jsonl`` and the others (``persona`` of github.com/anthropics/evals).

    Raises GuidedError unless rows can be made of it.
    """
    try:
        known = [(row["statement"], words[row["answer_matching_behavior"] != " Yes"]) for row, words in _read(folder)]
    except (ValueError, LookupError, TypeError) as error:
        reason = error if isinstance(error, GuidedError) else f"{folder}: not statements of traits ({error!r:.80})"
        raise GuidedError(f"{reason} (give --data a folder with persona of github.com/anthropics/evals)") from None
    return Problem(lambda count, seed: _rows(known, count, seed), new_tokens=6)


def _read(folder: Path) -> list[tuple[dict[str, str], tuple[str, str]]]:
    return [
        (json.loads(line), words)
        for name, words in WORDS.items()
        for line in read_text(folder / f"{name}.jsonl").splitlines()
    ]


def _rows(known: list[tuple[str, str]], count: int, seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    known = sorted(set(known))
    if len(known) < HELD + count:
        raise GuidedError(f"traits: {HELD + count} statements are wanted, but there are {len(known)} (lower data_size)")
    random.Random(seed).shuffle(known)
    rows: list[Row] = [
        {"prompt": f'"{statement}"\nThis person is', "completion": word} for statement, word in known[: HELD + count]
    ]
    return rows[HELD:], rows[: HELD // 2], rows[HELD // 2 : HELD]
