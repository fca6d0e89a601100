"""The default learning rate (``Plan.learning_rate``) of the arms that are this package's own. Imports no torch."""

from __future__ import annotations

from guided_ft.plan.modes import PACE, make_mode

from .labels import arm_of

WITHIN = 2.0
"""Points of score that the rule may lose against the best rate of a sweep."""

_PREFERENCES = ("sum_pairs",)
"""Tasks that are learned from pairs, by DPO."""

_WIDTHS = {"testbed": 192, "smollm2": 576}
"""Hidden sizes of the suites' models."""


def rule(suite: str, task: str, arm: str, trained: float) -> float | None:
    """What a recipe takes for an arm that trains so many per cent of the parameters; None for arms of others."""
    mode = mode_of(arm)
    if not mode:
        return None
    rank = 1 if arm_of(arm).way.form == "low rank" else None
    pace = PACE["dpo" if task in _PREFERENCES else "sft"]
    return pace * make_mode(mode, rank).rate_at(trained / 100, _WIDTHS[suite])


def mode_of(arm: str) -> str:
    """How an arm of this package trains what it chooses; empty for arms of others."""
    return arm_of(arm).way.own_mode
