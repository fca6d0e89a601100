"""Run one cell: make ready, train, measure, and return its row."""

from __future__ import annotations

import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset, disable_progress_bars
from peft import PeftModel, get_peft_model_state_dict
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from guided_ft.anatomy import Anatomy
from guided_ft.engine.labelled import labelled_only
from guided_ft.system.files import Json
from guided_ft.system.machine import machine, peak_bytes, reset_peak, versions

from ..arms.arms import ARMS
from ..suites.cell import Cell
from ..suites.suite import Lab, Problem
from .ready import ready
from .rewind import rewound
from .setup import Setup, Trial

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

LOOKS = (0.125, 0.25, 0.5, 0.75)
"""Shares of the training of a main run after which score and forgetting are looked at, besides its end."""

GLIMPSE = 50
"""Validation examples of a look."""


def run_cell(lab: Lab, cell: Cell) -> Json:
    """Return the row of a cell. Raises GuidedError if the arm cannot be had with this budget or model."""
    problem = lab.suite.problems[cell.task]
    train, validation, test = problem.rows(cell.data_size, cell.seed)
    arm = ARMS[cell.arm]
    reset_peak()
    resident = peak_bytes()
    model = lab.model()
    torch.manual_seed(cell.seed)
    setup = ready(arm.way, Trial(lab, cell, model, train))
    watch = _Watch(lab, problem, validation[:GLIMPSE], cell, setup)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        trainer = _trainer(lab, cell, problem, setup.rows or train, setup, watch, Path(folder))
        trained = trainer.model
        assert trained is not None
        if setup.guided is None:
            # What spares our arms all that nobody reads is given to the others, too.
            stack.enter_context(labelled_only(trained, Anatomy.of(trained)))
        if cell.lr:
            trainer.train()
            watch.note_peak()
    trained.eval()
    found = lab.forgetting(trained)
    score, valid = lab.score(trained, problem, test), lab.score(trained, problem, validation)
    elsewhere = {}
    if cell.phase == "front":
        elsewhere = {name: _finite(rise) for name, rise in lab.forgetting_on(trained).items()}
    some = rewound(lab, trained, problem, test, validation) if lab.suite.rewinds and setup.rewinds and cell.lr else []
    skills = None
    if cell.phase == "main":
        skills = lab.old_skills(trained) if cell.lr else lab.base_skills
        watch.look(trained, cell.steps if cell.lr else 0)
    own = [p for p in trained.parameters() if p.requires_grad] if isinstance(trained, PeftModel) else lab.moved(trained)
    trainable, total = sum(p.numel() for p in own), sum(p.numel() for p in lab.model().parameters())
    suite = lab.suite
    settings: Json = {"batch_size": suite.batch_size, "max_length": suite.max_length, "examples": suite.examples}
    if suite.bf16:
        settings["bf16"] = True
    return cell.to_dict() | {
        **arm.about(settings),
        "score": score,
        "validation": valid,
        "forgetting": _finite(found["forgetting"]),
        "kl": _finite(found["kl"]),
        "forgetting_on": elsewhere,
        "rewound": [point | {"forgetting": _finite(point["forgetting"])} for point in some],
        "old_skills": skills,
        "base_old_skills": lab.base_skills if skills is not None else None,
        "seconds": watch.seconds,
        "localize_seconds": setup.localize_seconds,
        "cpu_seconds": watch.cpu_seconds,
        "step_seconds": statistics.median(watch.steps) if watch.steps else 0.0,
        "peak_bytes": watch.peak,
        "resident_bytes": resident,
        "trainable": trainable,
        "fraction": 100 * trainable / total,
        "adapter_bytes": _bytes(get_peft_model_state_dict(trained).values() if isinstance(trained, PeftModel) else own),
        "curve": watch.curve,
        "machine": machine(),
        "weights": lab.weights,
        "versions": versions(),
        "precision": "bfloat16 autocast" if suite.bf16 else "float32",
    }


class _Watch(TrainerCallback):
    """Times the steps, and looks at score and forgetting now and then, off the clock and off the peak of memory."""

    def __init__(self, lab: Lab, problem: Problem, rows: list[Any], cell: Cell, setup: Setup) -> None:
        self.lab, self.cell, self.problem, self.rows = lab, cell, problem, rows
        # A rate is chosen by how its run ends.
        self.looks = {max(1, round(share * cell.steps)) for share in LOOKS if cell.phase == "main"}
        self.steps: list[float] = []
        self.seconds, self.cpu_seconds = setup.localize_seconds, setup.localize_cpu
        self.curve: list[dict[str, float | None]] = []
        self.peak = 0
        self._began = self._cpu = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        self.note_peak()
        if self.looks:
            score, forgetting = self.lab.start(self.cell, self.rows)
            self._note(0, score, forgetting)
        reset_peak()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        self.steps.append(time.perf_counter() - self._began)
        self.seconds += self.steps[-1]
        self.cpu_seconds += time.process_time() - self._cpu
        if state.global_step in self.looks:
            # A look takes memory of its own, which is not the training's.
            self.note_peak()
            self.look(model, state.global_step)
            reset_peak()

    def note_peak(self) -> None:
        self.peak = max(self.peak, peak_bytes())

    def look(self, model: Any, step: int) -> None:
        score, forgetting = self.lab.score(model, self.problem, self.rows), self.lab.glimpse(model)
        self._note(step, score, _finite(forgetting))

    def _note(self, step: int, score: float, forgetting: float | None) -> None:
        point = {"step": step, "score": score, "forgetting": forgetting, "seconds": self.seconds}
        # The processor's time says nothing about a run on a GPU.
        self.curve.append(point | ({} if torch.cuda.is_available() else {"cpu_seconds": self.cpu_seconds}))


def _trainer(
    lab: Lab, cell: Cell, problem: Problem, rows: list[Any], setup: Setup, watch: _Watch, folder: Path
) -> SFTTrainer | DPOTrainer:
    disable_progress_bars()
    kinds = (DPOTrainer, DPOConfig) if problem.is_preference else (SFTTrainer, SFTConfig)
    callbacks = [*([setup.guided] if setup.guided else []), *setup.callbacks, watch]
    optimizer = setup.optimizer and setup.optimizer(setup.model, cell.lr)
    trainer = kinds[0](
        setup.model,
        args=kinds[1](  # type: ignore[arg-type]  # the two of a pair fit
            output_dir=str(folder),
            max_steps=cell.steps,
            per_device_train_batch_size=lab.suite.batch_size,
            learning_rate=cell.lr,
            lr_scheduler_type="linear",
            weight_decay=0.0,
            max_length=lab.suite.max_length,
            pad_to_multiple_of=8,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_steps=cell.steps,
            report_to=[],
            bf16=lab.suite.bf16,
            seed=cell.seed,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=lab.tokenizer,
        callbacks=callbacks,
        optimizers=(optimizer, None),
    )
    for chatty in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(chatty)
    return trainer


def _finite(value: float) -> float | None:
    """The value, or None for one that a diverged model gave: JSON has no infinity."""
    return value if math.isfinite(value) else None


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """What has to be kept to have the result again."""
    return sum(t.numel() * t.element_size() for t in tensors)
