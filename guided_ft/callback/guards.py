"""What must hold when a trainer begins: it trains the plan, all of it and nothing else, from a sound checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ..anatomy import decoder_of
from ..errors import GuidedError
from ..plan.attaching import trainable_names
from ..plan.plan import Plan
from .resume import fault, refusal

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

logger = logging.getLogger(__name__)


def check_trainable(plan: Plan, model: nn.Module, decoder: nn.Module | None) -> None:
    """Raise GuidedError unless exactly the plan's parameters require gradients.

    Args:
        decoder: that of the model that the plan was attached to.
    """
    expected, found = plan.expected_trainable, trainable_names(model)
    if expected == found:
        return
    if decoder is not decoder_of(model):
        raise GuidedError(
            "GuidedCallback: the trainer trains another model than it was built with (model_init makes one anew: pass "
            "the model itself)"
        )
    wrong = sorted(found - expected) or sorted(expected - found)
    state = "trainable but not in the plan" if found - expected else "in the plan but not trainable"
    raise GuidedError(f"plan: {wrong[0]} is {state} ({len(expected ^ found)} parameters differ in all)")


def check_optimizer(plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise GuidedError unless the optimizer holds exactly the plan's parameters, each once."""
    names = {id(p): name for name, p in model.named_parameters()}
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    found = {names.get(i, "a parameter of no name") for i in held}
    if found != plan.expected_trainable or len(held) != len(found):
        wrong = sorted(found ^ plan.expected_trainable) or ["a parameter"]
        raise GuidedError(
            f"optimizer: it does not hold exactly the plan's parameters ({wrong[0]}; pass GuidedCallback to the "
            "trainer's constructor)"
        )


def check_resumed(plan: Plan, folder: Path) -> None:
    """Raise GuidedError, with the newest checkpoint that would do, if this one is incomplete or of another plan."""
    wrong = fault(folder, plan.hash) if folder.is_dir() else None
    if wrong:
        raise GuidedError(refusal(folder, wrong, plan.hash))


def check_rows(trainer: Trainer | None) -> None:
    """Raise GuidedError if a trainer has no row to train on, as TRL leaves out those without an answer that fits."""
    rows = getattr(trainer, "train_dataset", None)
    if isinstance(rows, Sized) and len(rows) == 0:
        raise GuidedError(
            "train_dataset: there is no row to train on (TRL leaves out rows of which max_length leaves no answer)"
        )


def check_labels(batches: dict[bool, int]) -> None:
    """Tell how many training batches had no label; raise GuidedError if none had one, so that nothing was trained."""
    total, without = sum(batches.values()), batches[False]
    if without == total > 0:
        raise GuidedError(
            f"no label in any of {total} training batches, so nothing was trained (is max_length too short, or every "
            "label -100?)"
        )
    if without:
        logger.warning("%d of %d training batches had no label and trained nothing", without, total)


def scale_learning_rate(optimizer: torch.optim.Optimizer, scheduler: LRScheduler | None, scale: float) -> None:
    """Scale the whole schedule, once: a trainer that trains again keeps its optimizer."""
    for group in optimizer.param_groups:
        if not group.get("guided_scaled"):
            group |= {key: group[key] * scale for key in ("lr", "initial_lr") if key in group}
            group["guided_scaled"] = True
    if scheduler is not None and hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]
