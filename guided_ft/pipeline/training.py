"""Train a plan with TRL, from the newest checkpoint if there is one, and save what came of it."""

from __future__ import annotations

import math
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from ..callback.callback import GuidedCallback
from ..callback.resume import checkpoints, newest_complete
from ..export.card import describe
from ..plan.modes import PACE
from ..plan.plan import Plan
from ..system.arrays import write_arrays
from ..system.files import read_json, write_json, writing
from ..system.signals import StopRequest, stop_on_request
from ..task.task import Task
from .results import Curve, Frozen, Trained
from .trainers import TRAINERS, Job, Row, Settings
from .whole import Whole, WholeCallback

if TYPE_CHECKING:
    from ..recipe.recipe import Recipe


def train(
    recipe: Recipe,
    plan: Plan | Whole,
    rows: list[Row],
    probe: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    key: str | None,
) -> Trained:
    """Train ``plan`` on ``rows``; save checkpoints in ``folder/train`` and the result in ``folder/adapter``.

    Continues from the newest complete checkpoint of the same plan and key, if there is one.

    Args:
        probe: a batch whose logits are kept in ``folder/probe.safetensors``, to compare the reloaded model with.
        key: changes with anything that training depends on (``fingerprint.stage_keys``); None: no checkpoints are
            saved, and a training that is stopped begins anew.

    Returns:
        What came of it; ``reward`` has points for GRPO only.
    """
    checkpoint = None if key is None else _resumable(key, plan, folder / "train")
    callback = _callback(recipe, plan)
    settings = _common(recipe, plan, folder / "train", len(rows))
    if key is None:
        shutil.rmtree(folder / "train", ignore_errors=True)
        settings["save_strategy"] = "no"
    # TRL makes the adapter before the trainer sows its seed.
    set_seed(recipe.seed)
    trainer = TRAINERS[recipe.train.trainer](Job(recipe, plan, rows, model, tokenizer, settings, callback))
    _show_progress(trainer)
    began = time.perf_counter()
    with stop_on_request() as request:
        trainer.add_callback(_SaveAndStop(request, save=key is not None))
        trainer.add_callback(_LogsLast())
        with writing(folder / "train"):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if request.asked:
            raise KeyboardInterrupt
    seconds = time.perf_counter() - began
    # Without autocast, as it is when it is loaded.
    trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    assert isinstance(trained, PreTrainedModel | PeftModel)
    trained.eval()
    _save(trained, tokenizer, folder / "adapter", plan, recipe.model)
    write_arrays(folder / "probe.safetensors", {"logits": probe_logits(trained, probe).numpy()})
    engine = callback.engine
    assert engine is not None
    return {
        "loss": _curve(trainer, "loss"),
        "reward": _curve(trainer, "reward"),
        "frozen": _frozen(callback),
        "learning_rate": learning_rate(recipe, plan),
        "seconds": seconds,
        "prefix": engine.summary(),
        "resumed_from": checkpoint.name if checkpoint else None,
        "trainable": plan.num_parameters,
    }


def _curve(trainer: Trainer, name: str) -> Curve:
    return [[entry["step"], entry[name]] for entry in trainer.state.log_history if name in entry]


def _callback(recipe: Recipe, plan: Plan | Whole) -> GuidedCallback | WholeCallback:
    if isinstance(plan, Whole):
        return WholeCallback(plan)
    wanted = recipe.train.prefix_cache
    # Of a plan that trains from layer 0 on nobody who wrote "auto" is told that there is no prefix.
    idle = wanted == "none" or (wanted == "auto" and not plan.first_layer)
    callback = GuidedCallback(plan, learning_rate=None, prefix_cache=None if idle else wanted)
    callback.tells = False
    return callback


def _frozen(callback: GuidedCallback | WholeCallback) -> Frozen:
    if isinstance(callback, WholeCallback):
        return {"identical": 0, "total": 0}
    certificate = callback.certificate
    assert certificate is not None
    return {"identical": certificate.identical, "total": certificate.total}


PROBED = 16
"""Tokens of each probed text: enough to tell weights apart, and no file as large as a model where the vocabulary is."""


@torch.no_grad()
def probe_logits(model: nn.Module, probe: Task) -> torch.Tensor:
    """Logits of the first tokens of the first batch, float32 on the CPU."""
    batch = next(probe.batches(next(model.parameters()).device))
    ids, mask = (batch[name][:, :PROBED] for name in ("input_ids", "attention_mask"))
    out = model(input_ids=ids, attention_mask=mask, use_cache=False)
    return out.logits.float().cpu()


def _resumable(key: str, plan: Plan | Whole, folder: Path) -> Path | None:
    """The checkpoint to go on from. What another plan or setting left behind is removed first."""
    request = {"plan": plan.hash, "key": key}
    asked = folder / "request.json"
    if asked.exists() and read_json(asked, "request").get("request") == request:
        good = newest_complete(folder, plan.hash)
        for path in checkpoints(folder):
            if good is None or int(path.name.split("-")[1]) > int(good.name.split("-")[1]):
                shutil.rmtree(path)
        return good
    shutil.rmtree(folder, ignore_errors=True)
    write_json(asked, {"kind": "request", "version": 1, "request": request})
    return None


def _save(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    plan: Plan | Whole,
    base: str,
) -> None:
    """Write the adapter (or, in freeze mode, the model) into a folder that appears complete or not at all."""
    with writing(folder):
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(str(temporary))
        tokenizer.save_pretrained(temporary)
        if isinstance(plan, Plan):
            # What was trained as a whole is compared, and not kept.
            describe(temporary, plan, base)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)


class _SaveAndStop(TrainerCallback):
    """Saves after the step in which an end was asked for, and ends the training."""

    def __init__(self, request: StopRequest, save: bool) -> None:
        self.request, self.save = request, save

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self.request.asked:
            control.should_save, control.should_training_stop = self.save, True


class _LogsLast(TrainerCallback):
    """Logs the last step however seldom a recipe logs (``logging_steps``): a curve ends where its training does."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True


class _Bar(ProgressCallback):
    """A progress bar without a line per logged step."""

    def on_log(self, *args: object, **kwargs: object) -> None:
        pass


def _show_progress(trainer: Trainer) -> None:
    for chatty in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(chatty)
    if sys.stderr.isatty():
        trainer.add_callback(_Bar)


def learning_rate(recipe: Recipe, plan: Plan | Whole) -> float:
    """The recipe's own, or what its plan suggests."""
    asked = recipe.train.learning_rate
    return plan.learning_rate * PACE[recipe.train.trainer] if asked == "auto" else asked


def num_steps(recipe: Recipe, rows: int) -> int:
    """Optimizer steps of a recipe on so many rows: its own, or those of its epochs, counted as the trainers do."""
    settings = recipe.train
    if settings.epochs is None:
        return settings.steps
    batches = math.ceil(rows / settings.batch_size)
    return math.ceil(settings.epochs * math.ceil(batches / settings.accumulate))


def _common(recipe: Recipe, plan: Plan | Whole, folder: Path, rows: int) -> Settings:
    settings = recipe.train
    return {
        "output_dir": str(folder),
        "max_steps": num_steps(recipe, rows),
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulate,
        "learning_rate": learning_rate(recipe, plan),
        "lr_scheduler_type": settings.lr_scheduler,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        # Two, so that one complete checkpoint is left if the save of the next is cut off.
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": [],
        "seed": recipe.seed,
        # A float32 adapter on a bfloat16 model then computes in bfloat16, too: a fourth less time on a CPU.
        "bf16": recipe.dtype == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": not sys.stderr.isatty(),
        **settings.arguments,
    }
