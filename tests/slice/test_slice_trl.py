"""DPO on top of an SFT slice: TRL's reference is the SFT state, not the base."""

from __future__ import annotations

import math

import families
import pytest
import tiny
import torch
from datasets import Dataset
from peft import PeftModel
from slicing import attach, base_tensors, same, slice_layers
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

EVERYTHING = "L0.H0 L0.H1 L1.H2 L0.N3 L0.N17 L0.N18 L1.N5"


def base(name: str) -> torch.nn.Module:
    model = families.make(name)
    # Trainers switch the cache off, and without it GPT-2 rounds differently.
    model.config.use_cache = False
    return model


def settings(folder, **options) -> dict:
    return {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "max_length": 32,
        **options,
    }


def sft(model, folder) -> None:
    data = Dataset.from_list(tiny.sums(16))
    args = SFTConfig(**settings(folder))
    SFTTrainer(model, args=args, train_dataset=data, processing_class=tiny.tokenizer()).train()


def dpo(model, folder, **options) -> DPOTrainer:
    data = Dataset.from_list(tiny.pairs(16))
    args = DPOConfig(**settings(folder, **options))
    return DPOTrainer(model, args=args, train_dataset=data, processing_class=tiny.tokenizer())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_reference_of_dpo_is_the_sft_state(name, checkpointing, tmp_path):
    before = base_tensors(base(name))
    peft_model = attach(base(name), EVERYTHING)
    at_birth = families.logits(peft_model)
    sft(peft_model, tmp_path / "sft")
    after_sft = families.logits(peft_model.eval())
    assert (after_sft - at_birth).abs().max() > 1e-2, "SFT moved nothing"
    peft_model.save_pretrained(tmp_path / "adapter")

    again = PeftModel.from_pretrained(base(name), tmp_path / "adapter", is_trainable=True)
    trainer = dpo(again, tmp_path / "dpo", gradient_checkpointing=checkpointing)
    assert trainer.ref_model is None
    for layer in slice_layers(again).values():
        ref, default = layer.slice_delta["ref"], layer.slice_delta["default"]
        assert torch.equal(ref.weight, default.weight)
        assert torch.equal(ref.index, default.index)
        assert ref.span == default.span
    trained = {n for n, p in again.named_parameters() if p.requires_grad}
    assert trained
    assert all(".slice_delta.default." in n for n in trained)

    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(losses[-1] - math.log(2)) > 1e-3
    again.eval()
    assert (families.logits(again) - after_sft).abs().max() > 1e-2
    again.set_adapter("ref")
    assert torch.equal(families.logits(again), after_sft)
    with again.disable_adapter():
        assert torch.equal(families.logits(again), at_birth)
    assert same(base_tensors(again), before)
