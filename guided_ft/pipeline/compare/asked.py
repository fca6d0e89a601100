"""What a comparison is asked for: arms, rates and seeds, as they are typed. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ...errors import GuidedError, did_you_mean
from ...recipe.recipe import Recipe
from ...recipe.strict_yaml import shown
from .arms import ARMS

T = TypeVar("T")

WIDE, NARROW = ("x0.1", "x0.3", "x1", "x3"), ("x0.3", "x1", "x3")
"""The sweep of every arm, as factors on the rate that suits what it trains; and that of ``--quick``."""

_MODES = ("slice", "freeze")
"""Modes that are the name of no arm: what is located trains in the recipe's own."""

MOST = 100
"""Rates, or seeds, of one comparison."""


@dataclass(frozen=True)
class Asked:
    """A comparison as it was asked for.

    Args:
        recipe: the user's.
        arms: names in ``ARMS``.
        rates: each a factor on the arm's own rule (``x0.3``), or a rate for all arms (``1e-4``).
        seeds: of the order of the examples, of new adapters and of the random choice.
        quick: fewer steps and examples.
        chosen: whether the arms were named; else those that the recipe does not allow are left out.
    """

    recipe: Recipe
    arms: tuple[str, ...]
    rates: tuple[str, ...]
    seeds: tuple[int, ...]
    quick: bool = False
    chosen: bool = True

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        arms: str | Sequence[str] | None = None,
        rates: str | Sequence[str | float] | None = None,
        seeds: str | Sequence[int] | None = None,
        quick: bool = False,
    ) -> Asked:
        """Read what a person typed, or what a script gives as lists.

        Raises:
            GuidedError: for what cannot be read, and for what the recipe does not allow.
        """
        if recipe.evaluate.retention == "none":
            raise GuidedError("compare: evaluate.retention: none, so forgetting cannot be measured (write self)")
        if recipe.data.test == 0:
            raise GuidedError("compare: data.test: 0, so there is nothing to compare on (write 20%, or a number)")
        usual = tuple(name for name, arm in ARMS.items() if not arm.extra)
        named = usual if arms is None else _each(arms, "arms", _arm)
        allowed = tuple(arm for arm in named if recipe.quantization == "none" or not ARMS[arm].trains_base)
        if arms is not None and allowed != named:
            wrong = next(arm for arm in named if arm not in allowed)
            raise GuidedError(
                f"compare: arms: {wrong!r} trains the base's own weights, which {recipe.quantization} does not allow "
                "(leave it out)"
            )
        return cls(
            recipe,
            allowed,
            (NARROW if quick else WIDE) if rates is None else _each(rates, "rates", _rate),
            (recipe.seed,) if seeds is None else _each(seeds, "seeds", _seed),
            quick,
            arms is not None,
        )

    @property
    def home(self) -> Path:
        """Where it works, in the folder of the run."""
        return self.recipe.output_dir / ("compare-quick" if self.quick else "compare")


WORDS = ("arms", "rates", "seeds")


def split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What is said to ``compare`` itself, and the overrides of the recipe."""
    own: dict[str, str] = {}
    overrides: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key.strip() in WORDS:
            own[key.strip()] = value
        else:
            overrides.append(word)
    return own, overrides


def rate_of(text: str, rule: float) -> float:
    """The rate that a word stands for, three digits long, since it names a folder."""
    rate = rule * float(text[1:]) if text.startswith("x") else float(text)
    return float(f"{rate:.3g}")


def _each(given: str | Sequence[T], what: str, read: Callable[[str], T | str]) -> tuple:
    words = given.strip("[]").split(",") if isinstance(given, str) else [str(one) for one in given]
    words = [word.strip() for word in words if word.strip()]
    if not words or len(words) > MOST:
        raise GuidedError(f"compare: {what}: {len(words)} of them (give 1 to {MOST}, with commas between)")
    return tuple(dict.fromkeys(read(word) for word in words))


def _arm(word: str) -> str:
    if word in _MODES:
        raise GuidedError(f"compare: arms: {word!r} is a mode of the recipe's (write arms=located mode={word})")
    if word not in ARMS:
        raise GuidedError(f"compare: arms: unknown {shown(word)} ({did_you_mean(word[:60], ARMS)})")
    return word


def _rate(word: str) -> str:
    try:
        value = float(word.removeprefix("x"))
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise GuidedError(f"compare: rates: {shown(word)} is not a rate above 0 (write 1e-4,1e-3 or x0.3,x1,x3)")
    return f"x{value:g}" if word.startswith("x") else f"{value:g}"


def _seed(word: str) -> int:
    if not word.isascii() or not word.isdigit() or len(word) > 9:
        raise GuidedError(f"compare: seeds: {shown(word)} is not a whole number from 0 (write 0,1,2)")
    return int(word)
