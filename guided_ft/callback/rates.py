"""The learning rate of a trainer that guided_ft did not build: its default is made for whole models, not for slices."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import TYPE_CHECKING, Any, Literal

from ..errors import GuidedError
from ..plan.modes import PACE
from ..plan.plan import Plan

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

logger = logging.getLogger("guided_ft")

LearningRate = float | Literal["auto"] | None

FAR = 10.0
"""A rate that differs from the rule by more than this factor is worth a line."""

_TRAINERS = {"SFTConfig": "sft", "DPOConfig": "dpo", "TrainingArguments": "sft"}
"""The rule's trainer, by the class of the arguments: no rule was measured for TRL's other trainers."""


def check_rate(wanted: object) -> None:
    """Raise GuidedError unless it is a rate above 0, ``auto`` or None."""
    number = isinstance(wanted, int | float) and not isinstance(wanted, bool) and 0 < wanted < math.inf
    if not (number or wanted is None or wanted == "auto"):
        raise GuidedError(f"learning_rate: {wanted!r} is neither a number above 0 nor 'auto' nor None (write 'auto')")


def set_rate(
    plan: Plan, args: TrainingArguments, wanted: LearningRate, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Write the rate into the arguments of a trainer, before it makes optimizer and schedule from them.

    A resumed run so asks for the same rate as the one that it goes on from, and its checkpoint brings it anyway.

    What is set, or looks wrong, is told as a warning: the one level that a script shows which sets up no logging.

    Args:
        args: a TrainingArguments, or a class made from it.
        wanted: a number: this rate. ``auto``: the plan's, where ``args`` has the default of its class. None: leave it.
        optimizer: one that the user made already; its rates are the user's.
    """
    if wanted is None:
        return
    rule, default, name = _rule(plan, args)
    say = logger.warning if args.should_log else logger.debug
    if optimizer is None and isinstance(wanted, int | float):
        args.learning_rate = float(wanted)
    elif optimizer is None and args.learning_rate in (default, vars(args).get("_guided_rate")):
        if rule is None:
            say("learning rate: %.3g is the default of %s, and the plan has no rule for it", args.learning_rate, name)
            return
        # Arguments that are used for a second plan still carry the rate of the first.
        args.learning_rate = vars(args)["_guided_rate"] = rule
        say(
            "learning rate: %.3g by the plan, in place of the default %.3g of %s, which is made for whole models "
            "(GuidedCallback(learning_rate=None) keeps it)",
            rule,
            default,
            name,
        )
        return
    rate = plan.lr_scale * (args.learning_rate if optimizer is None else optimizer.param_groups[0]["lr"])
    if rule is not None and rate and not 1 / FAR <= rate / rule <= FAR:
        say(
            "learning rate: %.3g is far %s the plan's %.3g (GuidedCallback(learning_rate=None) stops this line)",
            rate,
            "below" if rate < rule else "above",
            rule,
        )


def _rule(plan: Plan, args: TrainingArguments) -> tuple[float | None, float | None, str]:
    """The plan's rate for this trainer, the default of its arguments, and the name of their class."""
    # A user's own class inherits from one of these; a default that it brings is a choice, not a trap.
    base = next(c for c in type(args).__mro__ if c.__module__.startswith(("trl.", "transformers.")))
    plain = base.__module__.startswith("transformers.")
    trainer = _TRAINERS.get("TrainingArguments" if plain else base.__name__)
    default: Any = next(f.default for f in dataclasses.fields(base) if f.name == "learning_rate")
    # The rule is AdamW's.
    rule = plan.learning_rate * PACE[trainer] if trainer and "adam" in str(args.optim).lower() else None
    return rule, default, base.__name__
