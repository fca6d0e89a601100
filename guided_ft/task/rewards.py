"""Rewards of an answer that can be checked: functions of what the model said and what is right. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import GuidedError

Reward = Callable[[str, str], float]
"""From an answer and the right one to a reward, by custom from 0 to 1; what must be finite is checked in training."""

NUMBER = r"-?\d[\d,]*(?:\.\d+)?"


def last_number(text: str) -> str:
    """The last number of a text without its commas, or nothing."""
    numbers = re.findall(NUMBER, text)
    return numbers[-1].replace(",", "") if numbers else ""


def exact_match(found: str, expected: str) -> float:
    """1 for the right answer and not a word more; space around it does not count."""
    return float(found.strip() == expected.strip())


def number(found: str, expected: str) -> float:
    """1 if the last number is the right answer's last one."""
    return float(last_number(found) == last_number(expected) != "")


def near_number(found: str, expected: str) -> float:
    """``1 / (1 + distance)`` of the last number from the right answer's: a slope to climb before the first hit."""
    ours, theirs = last_number(found), last_number(expected)
    return 1 / (1 + abs(float(ours) - float(theirs))) if ours and theirs else 0.0


def bare_number(found: str, expected: str) -> float:
    """1 for a number alone, be it right or wrong."""
    return float(re.fullmatch(NUMBER, found.strip()) is not None)


REWARDS: dict[str, Reward] = {
    "exact_match": exact_match,
    "number": number,
    "near_number": near_number,
    "bare_number": bare_number,
}
"""Every reward by name (``train.reward``)."""


def register(name: str, reward: Reward) -> Reward:
    """Enter a reward of your own, which recipes then name.

    Example::

        register("short", lambda found, expected: 1 / (1 + len(found)))
        run(Recipe.load("grpo_sums", ["reward=number + short"]))

    Raises:
        GuidedError: if the name is taken, or cannot be written in a recipe.
    """
    if name in REWARDS:
        raise GuidedError(f"register: the reward {name!r} is taken (choose another name)")
    if not re.fullmatch(r"\w+", name):
        raise GuidedError(f"register: {name!r} cannot name a reward (use letters, digits and _)")
    REWARDS[name] = reward
    return reward
