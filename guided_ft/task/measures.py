"""Metrics of one's own: functions of all answers and of what is right, which recipes name. Imports no torch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from ..errors import GuidedError

Measure = Callable[[Sequence[str], Sequence[str]], float]
"""``measure(answers, right ones) -> number``: one of each for every test row, stripped of surrounding space.

By its name a report knows its scale: ``..._accuracy``, ``..._exact_match`` and ``..._f1`` are shares, 0 to 100; of a
``..._loss``, ``..._error``, ``..._perplexity`` or ``..._kl`` less is better, of all others more.
"""

SHIPPED = ("exact_match", "number_accuracy", "label_accuracy", "f1", "loss", "preference_accuracy", "reward_accuracy")
"""What can be measured without any; ``pipeline/measure.py`` says how."""

OWN: dict[str, Measure] = {}
"""What was registered, by name."""

GROUP = "guided_ft.metrics"
"""Entry points of this group announce the metrics of installed packages, to the command line too."""


def register(name: str, measure: Measure) -> Measure:
    """Enter a metric of your own, which recipes then name.

    Example::

        register("queue_accuracy", lambda found, right: 100 * sum(map(str.__eq__, found, right)) / len(right))
        run(Recipe.load("tickets.jsonl", ["metric=queue_accuracy + exact_match"]))

    Raises:
        GuidedError: if the name is taken, or cannot be written in a recipe.
    """
    if name in (*SHIPPED, *OWN, "auto"):
        raise GuidedError(f"register: the metric {name!r} is taken (choose another name)")
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise GuidedError(f"register: {name!r} cannot name a metric (use letters, digits and _)")
    OWN[name] = measure
    return measure


def announced(name: str) -> bool:
    """Whether a metric is one's own; one that an installed package announces is registered by asking."""
    if name not in OWN:
        for point in entry_points(group=GROUP):
            if point.name == name:
                register(name, point.load())
    return name in OWN


def here_only(value: str) -> list[str]:
    """The metrics of a recipe's key that another process would not know."""
    names = [name for name in value.split("+") if name in OWN]
    known = {point.name for point in entry_points(group=GROUP)} if names else set()
    return [name for name in names if name not in known]


def measured(name: str, found: Sequence[str], right: Sequence[str]) -> float:
    """What a metric of one's own says. Raises GuidedError, with its name, if it fails or says no number."""
    try:
        return float(OWN[name](found, right))
    except Exception as error:  # anyone's function
        told = " ".join(str(error).split())[:160]
        raise GuidedError(f"evaluate.metric: {name} failed ({type(error).__name__}: {told})") from error


def files(value: str) -> list[Path]:
    """The files in which the metrics of a recipe's key are written, as far as they are."""
    found = []
    for name in value.split("+"):
        try:
            found.append(Path(inspect.getsourcefile(inspect.unwrap(OWN[name])) or ""))
        except (KeyError, TypeError):
            continue
    return found
