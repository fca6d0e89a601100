"""What a callback does at every step, whatever it trains: look at the numbers, and give the model back on an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..engine import Engine
from .finite import FiniteGuard


class Guarded(TrainerCallback):
    """The part of ``GuidedCallback`` that runs while a trainer steps.

    Attributes:
        engine: what makes the steps cheaper, from the begin of a training on.
    """

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self._finite = FiniteGuard()

    def _close_engine(self) -> None:
        if self.engine is not None:
            self.engine.close()

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """Inside, an error gives the model back as it was."""
        try:
            yield
        except BaseException:
            self._close_engine()
            raise

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        with self._closing():
            self._finite.before_step(state.global_step + 1)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: object,
    ) -> None:
        with self._closing():
            self._finite.after_step(state.global_step, optimizer, control.should_save or control.should_training_stop)

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: object,
    ) -> None:
        with self._closing():
            self._finite.after_step(state.global_step, optimizer, control.should_save)
