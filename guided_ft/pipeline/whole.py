"""``Whole``: full fine-tuning. Nothing is chosen and nothing is frozen: what every plan is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..anatomy import Anatomy
from ..callback.call import TrainerCall
from ..callback.guarded import kept_in
from ..engine import Engine, close_left_open
from ..errors import Diverged, GuidedError
from ..plan.modes import make_mode
from ..scorers.watch.tap import GradientWatch
from ..slice.storage import is_quantized
from ..system.files import digest


@dataclass(frozen=True)
class Whole:
    """All parameters of a model, the embeddings too: stands where a Plan stands.

    Args:
        anatomy: the model's.
    """

    anatomy: Anatomy
    first_layer: ClassVar[int] = 0

    @property
    def num_parameters(self) -> int:
        """How many parameters train."""
        return self.anatomy.num_parameters

    @property
    def learning_rate(self) -> float:
        """A rate to begin with: that of ``freeze``, whose rule was read off whole models too (``FreezeMode``)."""
        return make_mode("freeze").rate_at(1.0, self.anatomy.hidden_size)

    @property
    def hash(self) -> str:
        return digest("whole", self.anatomy.to_dict())

    def peft_config(self) -> None:
        """No adapter: the weights themselves train."""

    def attach(self, model: nn.Module) -> nn.Module:
        """Let every parameter train. Raises GuidedError for quantized weights."""
        for name, parameter in model.named_parameters():
            if is_quantized(parameter):
                raise GuidedError(f"full fine-tuning: {name} is quantized and cannot be trained (leave that arm out)")
        return model.requires_grad_(True)


class WholeCallback(TrainerCallback):
    """What GuidedCallback does for a plan: the labelled positions only, and no step on a gradient that is not finite.

    Attributes:
        engine: what makes the steps cheaper.
    """

    def __init__(self, whole: Whole) -> None:
        self.whole = whole
        self.engine: Engine | None = None
        self._watch = GradientWatch()

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        assert model is not None
        close_left_open(model)
        self.whole.attach(model)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        assert model is not None
        call = TrainerCall()
        self.engine = Engine(model, 0, args, state.num_train_epochs, None, kept_in(args) / "prefix", {}, call.over)
        self._watch.open({n: p for n, p in model.named_parameters() if p.requires_grad})
        self.engine.on_close(self._watch.close)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        bad = self._watch.bad()
        if bad:
            self._close()
            raise Diverged(
                f"step {state.global_step + 1}: the gradient of {bad[0]} is not finite ({len(bad)} parameters in all; "
                "check the data, or lower the learning rate)"
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self.engine is not None:
            self.engine.close()
