"""The raw rows of the benchmark: one JSON object a line, read strictly, appended so that a kill loses one row at most.

Imports no torch.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from guided_ft.errors import GuidedError, did_you_mean
from guided_ft.system.files import read_text

Row = dict[str, Any]
Key = tuple[Any, ...]

IDENTITY = ("suite", "model", "task", "arm", "budget", "lr", "seed", "draw", "data_size", "steps", "phase")
"""What makes a run the same run. ``steps`` is the schedule that is compared: an arm that is matched by time instead
carries the steps of the arms it is compared with."""

PHASES = ("sweep", "main", "front")

SHARES = (0.25, 0.5, 0.75)
"""Of a run's change, measured after training where a suite rewinds."""


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _named(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_named(r"[A-Za-z0-9][A-Za-z0-9._-]*"), "a name of letters, digits, '.', '_' and '-'"),
    "arm": (_named(r"[a-z0-9-]+(:[a-z0-9-]+)*"), "a name such as 'guided:two-sided'"),
    "text": (_named(r"[^\n\r]+"), "one line of text"),
    "count": (_count, "a whole number from 0"),
    "number": (_number, "a finite number"),
    "amount": (lambda v: _number(v) and v >= 0, "a number from 0"),
    "positive": (lambda v: _number(v) and v > 0, "a number above 0"),
    "percent": (lambda v: _number(v) and 0 <= v <= 100, "a number from 0 to 100"),
    "phase": (lambda v: isinstance(v, str) and v in PHASES, f"one of {', '.join(PHASES)}"),
    "versions": (lambda v: isinstance(v, dict) and all(isinstance(x, str) for x in v.values()), "an object of texts"),
    "curve": (lambda v: isinstance(v, list), "a list of points"),
    "flag": (lambda v: isinstance(v, bool), "true or false"),
    "names": (lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v), "a list of names"),
}

FIELDS: dict[str, str] = {
    "suite": "name",
    "model": "text",
    "task": "name",
    "arm": "arm",
    "budget": "positive?",
    "lr": "amount",
    "seed": "count",
    "draw": "count",
    "data_size": "count",
    "steps": "count",
    "score": "percent",
    "validation": "percent",
    "forgetting": "number?",
    "kl": "number?",
    "old_skills": "percent?",
    "base_old_skills": "percent?",
    "seconds": "amount",
    "localize_seconds": "amount",
    "cpu_seconds": "amount",
    "step_seconds": "amount?",
    "peak_bytes": "count",
    "trainable": "count",
    "fraction": "percent",
    "adapter_bytes": "count?",
    "curve": "curve",
    "machine": "text",
    "weights": "text",
    "versions": "versions",
    "phase": "phase",
}
"""Every field a row must have, and its kind; with ``?`` it may be null (not measured, or not finite). Scores are 0-100,
budgets and fractions per cent of the parameters, losses nats, times seconds. ``weights`` tells the base model's from
others of the same name. More fields are kept and ignored."""

ABOUT: dict[str, str] = {
    "mode": "name",
    "method": "name?",
    "strategy": "name?",
    "kinds": "names",
    "control": "flag",
    "configuration": "name",
}
"""What a row says of its arm beside its name, whose meaning can change (see ``Arm.about``): how it trained, by which
scores and how its parts were chosen, of which kinds, whether as a control, and a digest of all that the arm was. Rows
that were written before have none of these."""

_POINT = {"step": "count", "score": "percent", "forgetting": "number?", "seconds": "amount"}


def key(row: Mapping[str, object]) -> Key:
    """The identity of a run: rows with equal keys are the same run."""
    return tuple(row[name] for name in IDENTITY)


def dedupe(rows: Iterable[Row]) -> list[Row]:
    """One row a run, the last one written, in the order in which the runs were first seen."""
    return list({key(row): row for row in rows}.values())


def check_row(row: object, where: str, *, new: bool = False) -> None:
    """Raise GuidedError, beginning with ``where``, unless this is a complete row; a ``new`` one tells its arm, too."""
    if not isinstance(row, dict):
        raise GuidedError(f"{where}: not a JSON object (a row is one object a line)")
    _check(row, FIELDS | ABOUT if new or any(name in row for name in ABOUT) else FIELDS, where)
    for i, point in enumerate(row["curve"]):
        spot = f"{where}: curve[{i}]"
        if not isinstance(point, dict):
            raise GuidedError(f"{spot}: not an object ({', '.join(_POINT)})")
        _check(point, _POINT, spot)
        earlier = row["curve"][i - 1] if i else None
        if earlier is None and point["step"]:
            raise GuidedError(f"{spot}: begins at step {point['step']} (the first point is step 0, the base)")
        if earlier and not (earlier["step"] < point["step"] and earlier["seconds"] <= point["seconds"]):
            raise GuidedError(
                f"{spot}: step {point['step']} at {point['seconds']} s does not come after the one before"
            )


def _check(row: Mapping[str, object], fields: Mapping[str, str], where: str) -> None:
    for name, kind in fields.items():
        if name not in row:
            # Only what is no field itself can be a mistyped one.
            others = [other for other in row if other not in fields]
            mend = did_you_mean(name, others) if others else "every row has one"
            raise GuidedError(f"{where}: no field {name!r} ({mend})")
        test, words = _KINDS[kind.removesuffix("?")]
        if not (kind.endswith("?") and row[name] is None) and not test(row[name]):
            raise GuidedError(f"{where}: {name} is {_shown(row[name])}, not {words}{' or null' * kind.endswith('?')}")


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """All rows of a file, in its order, duplicates too (see ``dedupe``).

    A last line that a killed writer left unfinished is dropped. Anything else that is no complete row is a GuidedError
    that names file and line.
    """
    *lines, tail = read_text(path).split("\n")
    rows = [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if _complete(tail):
        rows.append(_parse(tail, f"{path}:{len(lines) + 1}"))
    return rows


def _parse(line: str, where: str) -> Row:
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise GuidedError(f"{where}: not valid JSON ({error})") from None
    check_row(row, where)
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number, write null")


def _complete(tail: str) -> bool:
    """Whether a line without its newline is whole: a part of an object is never valid JSON."""
    try:
        json.loads(tail)
    except (ValueError, RecursionError):
        return False
    return True


def append_row(path: str | os.PathLike[str], row: Row) -> None:
    """Add one row at the end and wait until it is on disk; an unfinished last line is mended first.

    Raises GuidedError if the row is not complete, before anything is written. Writers of one file take turns.
    """
    check_row(row, "row", new=True)
    line = json.dumps(row, allow_nan=False) + "\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _mend(file)
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def _mend(file: Any) -> None:
    """End the file with a whole line: finish one that only lacks its newline, cut off any other."""
    file.seek(0)
    data = file.read()
    start = data.rfind(b"\n") + 1
    if start == len(data):
        return
    if _complete(data[start:].decode("utf-8", errors="replace")):
        file.write(b"\n")
    else:
        file.truncate(start)
