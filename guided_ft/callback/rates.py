"""The learning rate of a trainer that guided_ft did not build: its default is made for whole models, not for slices."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from typing import TYPE_CHECKING, Any, Literal

from ..errors import GuidedError
from ..plan.modes import PACE
from ..plan.plan import Plan

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainingArguments

logger = logging.getLogger("guided_ft")

LearningRate = float | Literal["auto"] | None

FAR = 10.0
"""A rate that differs from the rule by more than this factor is worth a line."""

_TRAINERS = {"SFTConfig": "sft", "DPOConfig": "dpo", "GRPOConfig": "grpo", "TrainingArguments": "sft"}
"""The rule's trainer, by the class of the arguments: no rule was measured for TRL's other trainers."""


def check_rate(wanted: object) -> None:
    """Raise GuidedError unless it is a rate above 0, ``auto`` or None."""
    number = isinstance(wanted, int | float) and not isinstance(wanted, bool) and 0 < wanted < math.inf
    if not (number or wanted is None or wanted == "auto"):
        raise GuidedError(f"learning_rate: {wanted!r} is neither a number above 0 nor 'auto' nor None (write 'auto')")


def own_rate(trainer: Trainer | None, optimizer: torch.optim.Optimizer | None) -> float | None:
    """The rate of an optimizer that the user brought, ready made or as a class with its arguments (0: the class's own);
    None if none was brought."""
    if optimizer is not None:
        return float(optimizer.param_groups[0]["lr"])
    brought = trainer.optimizer_cls_and_kwargs if trainer is not None else None
    return None if brought is None else float(brought[1].get("lr", 0.0))


def choose_rate(plan: Plan, args: TrainingArguments, wanted: LearningRate, own: float | None = None) -> float | None:
    """The rate to train at, or None: as the arguments, or the user's own optimizer, have it.

    A resumed run so asks for the same rate as the one that it goes on from, and its checkpoint brings it anyway.

    What is set, or looks wrong, is told as a warning: the one level that a script shows which sets up no logging.

    Args:
        args: a TrainingArguments, or a class made from it.
        wanted: a number: this rate. ``auto``: the plan's, where ``args`` has the default of its class. None: leave it.
        own: of an optimizer that the user brought; it stays.

    Raises:
        GuidedError: for a number beside an optimizer of the user's own.
    """
    if wanted is None:
        return None
    rule, default, name = _rule(plan, args)
    say = logger.warning if args.should_log else logger.debug
    chosen = None
    if isinstance(wanted, int | float):
        if own is not None:
            raise GuidedError(
                f"learning_rate: {wanted:g} cannot be set, as the trainer was given an optimizer of its own (leave "
                "learning_rate out of GuidedCallback)"
            )
        chosen = float(wanted)
    elif own is None and args.learning_rate == default:
        if rule is None:
            say("learning rate: %.3g is the default of %s, and the plan has no rule for it", args.learning_rate, name)
            return None
        say(
            "learning rate: %.3g by the plan, in place of the default %.3g of %s, which is made for whole models "
            "(GuidedCallback(learning_rate=None) keeps it)",
            rule,
            default,
            name,
        )
        return rule
    rate = plan.lr_scale * next(rate for rate in (chosen, own, args.learning_rate) if rate is not None)
    if rule is not None and rate and not 1 / FAR <= rate / rule <= FAR:
        say(
            "learning rate: %.3g is far %s the plan's %.3g (GuidedCallback(learning_rate=None) stops this line)",
            rate,
            "below" if rate < rule else "above",
            rule,
        )
    return chosen


def train_at(trainer: Trainer | None, args: TrainingArguments, rate: float) -> None:
    """Let a trainer make its optimizer and schedule with a rate.

    Its arguments have the rate only while it trains: they are the user's, and may serve another trainer, too.

    Args:
        trainer: None: of a loop that is not known, whose arguments keep the rate.
    """
    before = args.learning_rate
    if trainer is None:
        args.learning_rate = rate
        return
    train = trainer.train

    @functools.wraps(train)
    def at_rate(*given: Any, **options: Any) -> Any:
        if trainer.args.learning_rate != before:
            # Changed since, by the user or by another callback.
            return train(*given, **options)
        trainer.args.learning_rate = rate
        try:
            return train(*given, **options)
        finally:
            trainer.args.learning_rate = before

    trainer.train = at_rate  # type: ignore[method-assign]


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
