"""The default learning rate (``Plan.learning_rate``) of the arms that are this package's own. Imports no torch."""

from __future__ import annotations

from ..modes import MODES, WIDTH
from .labels import family

WITHIN = 2.0
"""Points of score that the rule may lose against the best rate of a sweep."""

_MODES = {"lora": "lora", "guided:lora": "lora", "guided:lora-late": "lora", "guided:freeze": "freeze"}
_SLICES = ("guided", "random", "shuffled", "bottom", "magnitude", "wrong-task")


_WIDTHS = {"testbed": 192, "smollm2": 576}
"""Hidden sizes of the suites' models."""


def rule(suite: str, arm: str, budget: float | None) -> float | None:
    """What a plan suggests for an arm and a budget (per cent of the parameters); None for arms of others."""
    mode = _MODES.get(arm, "slice" if family(arm) in _SLICES else "")
    if mode not in MODES:
        return None
    rank = 1 if "rank" in arm else None
    # An arm without a budget has a rate that does not depend on it.
    return MODES[mode].rate((budget or 100.0) / 100, rank) * WIDTH / _WIDTHS[suite]
