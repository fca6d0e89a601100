"""What a callback does from the first step to the last, whatever it trains: it looks at the numbers, gives the model
back on an error, seals what is saved, and certifies at the end that nothing else moved."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..engine import Engine
from ..errors import GuidedError
from ..plan.plan import Plan
from ..system import processes
from .certify import Certificate, canonical, fingerprint
from .finite import FiniteGuard
from .guards import check_labels
from .resume import seal

logger = logging.getLogger(__name__)


class Guarded(TrainerCallback):
    """The part of ``GuidedCallback`` that runs while a trainer steps, saves and ends.

    Attributes:
        plan: what trains, once the trainer is built.
        certificate: how many frozen tensors are bit-identical, once training has ended.
        engine: what makes the steps cheaper, from the begin of a training on.
    """

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.certificate: Certificate | None = None
        self.engine: Engine | None = None
        self._frozen: dict[str, str] | None = None
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

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        if self.engine is not None:
            self.engine.flush()
        # The others may still be writing their random states into it.
        processes.wait()
        if args.should_save:
            seal(folder_of(args) / f"checkpoint-{state.global_step}", self._ready().hash)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        self._close_engine()
        plan = self._ready()
        assert self._frozen is not None
        assert self.engine is not None
        check_labels(self.engine.batches)
        trained = {canonical(name) for name in plan.expected_trainable}
        assert model is not None
        after = fingerprint(model, skip=trained, fixed=True)
        self.certificate = Certificate.compare(self._frozen, after)
        if args.should_save:
            self.certificate.save(kept_in(args) / "certificate.json", plan.hash)
        self.certificate.check()
        logger.info("%s", self.certificate)

    def _ready(self) -> Plan:
        if self.plan is None or self._frozen is None:
            raise GuidedError("GuidedCallback: it was added too late (pass it in callbacks=[...] of the constructor)")
        return self.plan


def kept_in(args: TrainingArguments) -> Path:
    """Where a callback keeps the plan, the map, the certificate and the prefix cache.

    ``push_to_hub`` of a trainer uploads all of its folder but what begins with an underscore, and a cache holds hidden
    states of the texts that are trained on.
    """
    return folder_of(args) / "_guided"


def folder_of(args: TrainingArguments) -> Path:
    """The folder of a trainer's outputs; transformers fills it in where none was given."""
    assert args.output_dir is not None
    return Path(args.output_dir)
