"""The trainers that a callback is put into, on tiny models."""

from __future__ import annotations

import hashlib
from pathlib import Path

import tiny
import torch
from datasets import Dataset
from drawn import subspace
from families import make
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from guided_ft import GuidedCallback, Plan, Selection, Task
from guided_ft.anatomy import Anatomy

MODES = ("slice", "freeze", "lora", "subspace")

STEPS, SAVE = 6, 3


def settings(folder: Path, **options) -> dict:
    return {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "save_steps": SAVE,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        **options,
    }


def base(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32):
    """A model that was loaded from a folder, as users' models are (DPO reloads its reference from there)."""
    path = folder / f"base-{family}-{dtype}".replace("torch.", "")
    if not path.exists():
        make(family, dtype).save_pretrained(path)
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager")


def sft(model, folder: Path, callbacks, peft_config=None, **options):
    return SFTTrainer(
        model,
        args=SFTConfig(**{"gradient_checkpointing": False, **settings(folder, **options)}, bf16=False, max_length=32),
        train_dataset=Dataset.from_list(tiny.sums(24)),
        processing_class=tiny.tokenizer(),
        callbacks=callbacks,
        peft_config=peft_config,
    )


def dpo(model, folder: Path, callbacks, peft_config=None, **options):
    return DPOTrainer(
        model,
        args=DPOConfig(**{"gradient_checkpointing": False, **settings(folder, **options)}, bf16=False, max_length=32),
        train_dataset=Dataset.from_list(tiny.pairs(24)),
        processing_class=tiny.tokenizer(),
        callbacks=callbacks,
        peft_config=peft_config,
    )


def plain(model, folder: Path, callbacks, peft_config=None, **options):
    task = Task.from_dataset(tiny.sums(24), tiny.tokenizer())
    rows = [{"input_ids": e[0].ids, "labels": e[0].labels} for e in task.examples]
    length = max(len(r["input_ids"]) for r in rows)
    rows = [
        {
            "input_ids": list(r["input_ids"]) + [0] * (length - len(r["input_ids"])),
            "labels": list(r["labels"]) + [-100] * (length - len(r["labels"])),
            "attention_mask": [1] * len(r["input_ids"]) + [0] * (length - len(r["input_ids"])),
        }
        for r in rows
    ]
    return Trainer(
        model, args=TrainingArguments(**settings(folder, **options)), train_dataset=rows, callbacks=callbacks
    )


TRAINERS = {"trainer": plain, "sft": sft, "dpo": dpo}


def from_task(mode: str, trainer: str = "sft", **options) -> GuidedCallback:
    rows = tiny.pairs(8) if trainer == "dpo" else tiny.sums(8)
    task = Task.from_dataset(rows, tiny.tokenizer())
    budget = "45%" if mode == "freeze" else "20%"
    kinds = {} if mode == "subspace" else {"kinds": ("head", "neuron")}
    return GuidedCallback(task=task, budget=budget, mode=mode, **kinds, **options)


def ready(model, mode: str) -> Plan:
    return _plan(model, mode, "L0.H1 L1.H2 L1.H3 L0.N3 L1.N40", seed=3)


def another(model, mode: str) -> Plan:
    """One that trains parameters of the same names."""
    return _plan(model, mode, "L0.H1 L1.H2 L1.H3 L0.N9 L1.N41", seed=5)


def _plan(model, mode: str, components: str, seed: int) -> Plan:
    anatomy = Anatomy.of(model)
    if mode == "subspace":
        return Plan(subspace(anatomy, components, seed=seed), mode)
    return Plan(Selection.parse(components, anatomy), mode)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("*.safetensors"))
    assert files
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
