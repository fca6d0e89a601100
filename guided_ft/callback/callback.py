"""``GuidedCallback``: applies a Plan inside a Hugging Face trainer, guards it, and certifies it at the end."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedTokenizerBase, TrainerControl, TrainerState, TrainingArguments

from ..anatomy import Anatomy, decoder_of
from ..engine import Engine, close_left_open
from ..errors import GuidedError
from ..plan.fits import check_same_model
from ..plan.modes import make_mode, misfits
from ..plan.modes.located import Located
from ..plan.plan import DEFAULT_MODE, Plan, PlanOptions
from ..scorers.settings import LocalizeOptions
from ..selection.scoremap import ScoreMap
from ..selection.settings import SelectOptions
from ..slice.storage import forbid_packing
from ..system import processes
from ..system.files import parse_size
from ..task.given import Given, named
from ..task.task import Task
from .asked import Retain, check_asked
from .call import TrainerCall, trainer_here
from .certify import canonical, fingerprint
from .finite import scales_loss
from .guarded import Guarded, folder_of, kept_in
from .guards import check_optimizer, check_resumed, check_rows, check_trainable, scale_learning_rate
from .page import Seen, write
from .rates import LearningRate, check_rate, choose_rate, own_rate, train_at
from .readers import other_reader
from .request import Request
from .resume import PLAN, guard_resuming
from .telling import told

logger = logging.getLogger(__name__)

_USUAL = {
    "method": LocalizeOptions.method,
    "options": {},
    "kinds": SelectOptions.kinds,
    "strategy": SelectOptions.strategy,
}


class GuidedCallback(Guarded):
    """Train only what a plan says, in any Trainer, SFTTrainer or DPOTrainer.

    Give it a ready plan, or a task to make one from::

        Trainer(..., callbacks=[GuidedCallback(plan)])
        Trainer(..., callbacks=[GuidedCallback(task=task)])
        Trainer(..., callbacks=[GuidedCallback(task=task, mode="slice", method="gradient", budget="0.3%")])

    Pass it to the trainer's constructor: a callback that is added later comes too late for the optimizer. If the model
    is plain, it becomes the PeftModel (or is frozen in place); a model that already carries the plan, through
    ``peft_config=plan.peft_config()``, is left as it is.

    It stops the run with a GuidedError when the trained parameters are not exactly the plan's, when a gradient is not
    finite (before the step that would spread it) or a trained parameter or the optimizer's state is not (before they
    would be saved), and when a checkpoint to resume from is incomplete or of another plan. At the end it checks that
    every other tensor is bit-identical.

    Training computes only what it needs: logits where labels are, and no gradient below the first trained layer. A
    training-mode forward with labels therefore returns the logits of the labelled positions only, unless
    ``full_logits``, or unless code that is not transformers' or TRL's may read them: a ``compute_loss`` or a
    ``loss_function`` of your own, a forward hook on the last layer or above.

    Args:
        plan: what to train; or None, and then:
        task: what to localize for; of a data set its first 64 rows, by the trainer's tokenizer.
        mode, rank, lr_scale, mode_options: as in ``Plan``; ``subspace``, along located directions, if nothing is said.
        retain: as in ``localize`` and ``localize_directions``; it may be a data set too.
        method, options: as in ``localize``, for modes that train units.
        budget, strategy, first_layer: as in ``select`` and ``select_directions``.
        kinds: of units, as in ``select``. In ``freeze`` mode whole attentions and MLPs are chosen.
        learning_rate: ``"auto"``: the plan's (for DPO a fifth of it), in place of the trainer's default, which is made
            for whole models; a number: this one; None: the trainer's, whatever it is.
        seed: of the sampled retain text and of random choices.
        prefix_cache: size of the file in which the states that enter the first trained layer are kept from one epoch to
            the next, such as ``"2GB"``; ``"auto"``: 2 GiB where it helps; None: no cache. The losses are the same.
        full_logits: compute the logits of every position, whoever reads them.

    Attributes:
        plan: the plan in force, once the trainer is built.
        scores: the map it was made from, if it was made here.
        certificate: how many frozen tensors are bit-identical, once training has ended.
        engine: what makes the steps cheaper, and what its prefix cache did.
    """

    tells = True
    """Whether it says what is trained; a program that says it itself sets this to False."""

    def __init__(
        self,
        plan: Plan | None = None,
        *,
        task: Task | Given | None = None,
        method: str = LocalizeOptions.method,
        retain: Retain = LocalizeOptions.retain,
        budget: str | float | int = SelectOptions.budget,
        kinds: tuple[str, ...] = SelectOptions.kinds,
        strategy: str = SelectOptions.strategy,
        first_layer: int = SelectOptions.first_layer,
        mode: str = DEFAULT_MODE,
        rank: int | None = Plan.rank,
        lr_scale: float = Plan.lr_scale,
        mode_options: dict[str, object] | None = None,
        learning_rate: LearningRate = "auto",
        seed: int = LocalizeOptions.seed,
        prefix_cache: str | int | None = None,
        full_logits: bool = False,
        options: dict[str, object] | None = None,
    ) -> None:
        super().__init__()
        if (plan is None) == (task is None):
            raise GuidedError("GuidedCallback: give it either a plan or a task to make one from")
        if not (plan is None or isinstance(plan, Plan)):
            raise GuidedError(f"plan: {named(plan)} is no Plan (write task=..., or Plan(selection))")
        check_asked(task, retain)
        self.plan = plan
        self.scores: ScoreMap | Located | None = None
        if prefix_cache is not None:
            parse_size(prefix_cache)
        check_rate(learning_rate)
        self._learning_rate = learning_rate
        self._prefix_cache, self._full_logits = prefix_cache, full_logits
        # Wrong words are refused here, also beside a ready plan.
        localize = LocalizeOptions(method, retain, seed=seed, options=options or {})
        select = SelectOptions(budget, kinds, strategy, seed, first_layer)
        make_mode(mode, rank, mode_options)
        asked = {"method": method, "options": options or {}, "kinds": tuple(kinds), "strategy": strategy}
        for key, why in misfits(mode, asked, _USUAL):
            raise GuidedError(f"{key}: {why}")
        trained = PlanOptions(mode=mode, rank=rank, lr_scale=lr_scale, options=mode_options or {})
        self._request = None if task is None else Request(task, localize, select, trained)
        self._seen: Seen | None = None
        self._decoder: nn.Module | None = None

    # -- applying ---------------------------------------------------------------------------------------------------
    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: object,
    ) -> None:
        """The only moment before the optimizer is made: find the plan, apply it, fingerprint the rest."""
        assert model is not None
        # Whatever is refused is refused before the model is touched.
        processes.check_together(args.world_size)
        if self.plan is None or self._request is not None:
            Anatomy.of(model)
        else:
            check_same_model(self.plan.selection.anatomy, model)
        check_rows(trainer_here())
        forbid_packing(model)
        close_left_open(model)
        # A plan that was made for another model does not fit this one.
        if self.plan is None or (self._request is not None and not self.plan.is_attached(model)):
            assert self._request is not None
            self._request = self._request.read(args, processing_class)
            self.plan, self.scores = self._request.make(model, kept_in(args), write=args.should_save)
        processes.agree("plan", self.plan.hash)
        if not self.plan.is_attached(model):
            self.plan.way.take_up(self.plan.selection, model)
        if not self.plan.is_attached(model):
            if hasattr(model, "peft_config"):
                raise GuidedError(
                    "GuidedCallback: the model carries another adapter than the plan's (pass a plain model)"
                )
            self.plan.attach_in_place(model)
        self.plan.full_precision(model)
        self._decoder = decoder_of(model)
        trained = {canonical(name) for name in self.plan.expected_trainable}
        self._frozen = fingerprint(model, skip=trained, fixed=True)
        check_trainable(self.plan, model, self._decoder)
        trainer = trainer_here()
        rate = choose_rate(self.plan, args, self._learning_rate, own_rate(trainer, optimizer))
        if rate is not None:
            train_at(trainer, args, rate)
        if args.should_save:
            self.plan.save(kept_in(args) / PLAN)
        guard_resuming(trainer, lambda: self._ready().hash)
        if self.tells and args.should_log:
            # The one level that a script shows which sets up no logging.
            logger.warning(told(self.plan, self.scores))

    # -- guarding ---------------------------------------------------------------------------------------------------
    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        lr_scheduler: LRScheduler | None = None,
        **kwargs: object,
    ) -> None:
        assert model is not None
        plan, call = self._ready(), TrainerCall()
        self._seen = Seen.of(args, state, model, kwargs.get("train_dataloader"))
        check_trainable(plan, model, self._decoder)
        if optimizer is not None:
            check_optimizer(plan, model, optimizer)
        if state.global_step:
            check_resumed(plan, call.resumed_from or folder_of(args) / f"checkpoint-{state.global_step}")
        elif plan.lr_scale != 1.0:
            assert optimizer is not None
            # A resumed scheduler brings its scaled rates along.
            scale_learning_rate(optimizer, lr_scheduler, plan.lr_scale)
        self._close_engine()
        reader = None if self._full_logits else other_reader(call.trainer, model)
        if reader:
            logger.info("the logits of every position are computed: %s", reader)
        assert self._frozen is not None
        self.engine = Engine(
            model,
            plan.first_layer,
            args,
            state.num_train_epochs,
            self._prefix_cache,
            kept_in(args) / "prefix",
            self._frozen,
            call.over,
            self._full_logits or reader is not None,
        )
        if self.engine.note:
            logger.warning("no prefix cache: %s", self.engine.note)
        self._finite.open(model, scaled=scales_loss(call.trainer, args))
        self.engine.on_close(self._finite.close)

    # -- telling ----------------------------------------------------------------------------------------------------
    def report(self, folder: str | os.PathLike[str]) -> Path:
        """Write the report page of what was trained, and the files that it is made of; return the page's path.

        ``guided-ft show FOLDER`` tells the same as text. Raises GuidedError if nothing was trained yet.
        """
        asked = self._request and self._request.task
        task = asked if isinstance(asked, Task) else None
        return write(folder, self._ready(), self.scores, task, self.certificate, self._seen)
