"""``FiniteGuard``: no number that is not finite is spread by a step, or saved."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..errors import Diverged
from ..scorers.watch.tap import GradientWatch
from ..system import processes

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

SKIPS = 30
"""Steps that fp16's loss scaler may skip one after the other: halved so often, it has left its first scale behind."""


class FiniteGuard:
    """Looks at the gradients before each step, at the trained parameters after it, and at the optimizer before saves.

    Clipping, a rate that is too high and the squares of large gradients each make numbers that are not finite out of
    ones that are, so each place is looked at for itself.
    """

    def __init__(self) -> None:
        self._watch = GradientWatch()
        self._trained: dict[str, nn.Parameter] = {}
        self._skipped = 0

    def open(self, model: nn.Module, scaled: bool) -> None:
        """Begin with a training of the model's parameters that require gradients.

        Args:
            scaled: whether a loss scaler is at work: then a gradient that overflows is normal, and its step is skipped.
        """
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._skipped = 0
        if not scaled:
            self._watch.open(self._trained)

    def close(self) -> None:
        self._watch.close()
        self._trained = {}

    def before_step(self, step: int) -> None:
        """Raise Diverged if a gradient is not finite."""
        bad = self._watch.bad()
        if bad:
            raise Diverged(
                f"step {step}: the gradient of {bad[0]} is not finite ({len(bad)} parameters in all; check the data, "
                "or lower the learning rate)"
            )

    def after_step(self, step: int, optimizer: torch.optim.Optimizer | None, saving: bool) -> None:
        """Raise Diverged if a trained parameter, or what is to be saved of the optimizer, is not finite."""
        self._skipped = self._skipped + 1 if getattr(optimizer, "step_was_skipped", False) else 0
        if self._skipped == SKIPS:
            raise Diverged(
                f"step {step}: the last {SKIPS} steps were skipped, as their gradients overflow in fp16 (check the "
                "data, or train in bf16)"
            )
        if not _finite(self._trained.values()):
            bad = [name for name, p in self._trained.items() if not _finite([p])]
            raise Diverged(
                f"step {step}: {bad[0]} is no longer finite ({len(bad)} parameters in all; lower the learning rate)"
            )
        if saving and optimizer is not None:
            self._check_optimizer(step, optimizer)

    def _check_optimizer(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        for name, parameter in self._trained.items():
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor) and value.is_floating_point() and not _finite([value]):
                    raise Diverged(
                        f"step {step}: the optimizer's {key} of {name} is not finite, so it would not train any more "
                        "(clip the gradients with max_grad_norm, or check the data)"
                    )


def scales_loss(trainer: Trainer | None, args: TrainingArguments) -> bool:
    """Whether the training scales its loss, as fp16 wants on a GPU."""
    if trainer is None:
        return bool(args.fp16)
    return getattr(trainer.accelerator, "scaler", None) is not None


@torch.no_grad()
def _finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether all numbers are finite. Waits for the device once."""
    local = [processes.local(t) for t in tensors]
    return bool(nn.utils.get_total_norm([t for t in local if t.numel()], math.inf).isfinite())
