"""Models, plans and runs whose lower layers are frozen, so that there is a prefix to store."""

from __future__ import annotations

from pathlib import Path

import tiny
from datasets import Dataset
from families import make
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from guided_ft import Anatomy, Component, GuidedCallback, Plan, Selection

FIRST = 2


def model_of(family: str, attention: str = "sdpa"):
    model = make(family, layers=4)
    if model._supports_sdpa:
        model.set_attn_implementation(attention)
    return model


def plan_of(model, first: int = FIRST) -> Plan:
    anatomy = Anatomy.of(model)
    parts = [Component("neuron", layer, n) for layer in range(first, anatomy.num_layers) for n in (1, 5, 6, 40)]
    heads = [Component("head", layer, h) for layer in range(first, anatomy.num_layers) for h in range(4)]
    return Plan(Selection(anatomy, parts + heads))


def settings(folder: Path, **options) -> dict:
    common = {
        "output_dir": str(folder),
        "max_steps": 12,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    return common | options


def trl_run(kind: str, folder: Path, callback: GuidedCallback, resume: bool = False, model=None, more=(), **options):
    trainer_class, config = {"sft": (SFTTrainer, SFTConfig), "dpo": (DPOTrainer, DPOConfig)}[kind]
    rows = {"sft": tiny.sums, "dpo": tiny.pairs}[kind](16)
    model = model or model_of("llama")
    trainer = trainer_class(
        model,
        args=config(**{"gradient_checkpointing": False, **settings(folder, **options)}, bf16=False, max_length=32),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
        callbacks=[callback, *more],
    )
    trainer.train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], trainer
