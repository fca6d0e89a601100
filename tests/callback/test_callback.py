"""GuidedCallback: the drop-in, in every trainer and mode: applied, guarded, resumed, certified."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from families import NAMES, logits, make
from peft import AutoPeftModelForCausalLM
from trainers import MODES, STEPS, TRAINERS, base, digests, dpo, from_task, ready, sft
from transformers import AutoModelForCausalLM

from guided_ft import GuidedCallback, Plan, Selection
from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError
from guided_ft.plan.attaching import trainable_names


def test_an_adapter_of_the_same_shape_on_other_rows_is_refused(tmp_path):
    model = base(tmp_path)
    other = Plan(Selection.parse("L0.H0 L1.H0 L1.H1 L0.N5 L1.N41", Anatomy.of(model)))
    plan = ready(model, "slice")
    assert other.expected_trainable == plan.expected_trainable
    with pytest.raises(GuidedError, match="carries another adapter"):
        sft(other.attach(model), tmp_path / "run", [GuidedCallback(plan)])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TRAINERS)
def test_one_added_argument(tmp_path, name, mode):
    model = base(tmp_path)
    start = logits(model)
    callback = from_task(mode, name)
    trainer = TRAINERS[name](model, tmp_path / "run", [callback])
    assert trainable_names(trainer.model) == callback.plan.expected_trainable
    trainer.train()
    assert callback.certificate.ok
    assert callback.certificate.total > 5
    assert not torch.equal(logits(trainer.model.eval()), start)
    trainer.save_model(str(tmp_path / "final"))
    loader = AutoModelForCausalLM if mode == "freeze" else AutoPeftModelForCausalLM
    again = loader.from_pretrained(tmp_path / "final", attn_implementation="eager").eval()
    assert torch.equal(logits(again), logits(trainer.model))
    if mode != "freeze":
        with trainer.model.disable_adapter():
            assert torch.equal(logits(trainer.model), start)


LAYOUTS = ("llama", "phi3", "gpt2")
"""Separate projections, fused ones, and weights that are stored transposed."""

TRAINED = [(family, "slice", dtype) for family in NAMES for dtype in (torch.float32, torch.bfloat16)]
TRAINED += [
    (family, mode, dtype) for family in LAYOUTS for mode in MODES[1:] for dtype in (torch.float32, torch.bfloat16)
]


@pytest.mark.parametrize(("family", "mode", "dtype"), TRAINED)
def test_every_family_trains_by_sft(tmp_path, family, mode, dtype):
    callback = GuidedCallback(ready(make(family), mode))
    model = base(tmp_path, family, dtype)
    start = logits(model)
    trainer = sft(model, tmp_path / "run", [callback], max_steps=2, save_strategy="no")
    trainer.train()
    assert callback.certificate.ok
    assert not torch.equal(logits(trainer.model.eval()), start)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_trains_by_dpo(tmp_path, family, dtype):
    model = base(tmp_path, family, dtype)
    plan = ready(model, "slice")
    callback = GuidedCallback(plan)
    trainer = dpo(model, tmp_path / "run", [callback], plan.peft_config(), max_steps=2, save_strategy="no")
    assert trainer.ref_model is None
    trainer.train()
    assert callback.certificate.ok
    first = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert first == pytest.approx(math.log(2), abs=1e-4 if dtype == torch.float32 else 1e-2)
    assert all(p.dtype == torch.float32 for n, p in trainer.model.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("mode", ["slice", "lora"])
def test_dpo_from_the_callback_alone_needs_no_second_model(tmp_path, mode):
    trainer = dpo(base(tmp_path), tmp_path / "run", [from_task(mode, "dpo")])
    assert trainer.ref_model is None
    trainer.train()
    first = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert first == pytest.approx(math.log(2), abs=1e-4)


def test_both_ways_in_are_the_same_run(tmp_path):
    plan = ready(make("llama"), "slice")
    alone = sft(base(tmp_path), tmp_path / "a", [GuidedCallback(plan)])
    config = sft(base(tmp_path), tmp_path / "b", [GuidedCallback(plan)], plan.peft_config())
    for trainer in (alone, config):
        trainer.train()
    assert digests(tmp_path / "a" / f"checkpoint-{STEPS}") == digests(tmp_path / "b" / f"checkpoint-{STEPS}")


@pytest.mark.parametrize("name", TRAINERS)
def test_gradient_checkpointing_changes_nothing(tmp_path, name):
    plan = ready(make("llama"), "slice")
    losses = []
    for on in (False, True):
        trainer = TRAINERS[name](base(tmp_path), tmp_path / str(on), [GuidedCallback(plan)], gradient_checkpointing=on)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_lr_scale_scales_the_whole_schedule(tmp_path):
    plan = ready(make("llama"), "slice")
    double = Plan(plan.selection, "slice", lr_scale=2.0)
    one = sft(base(tmp_path), tmp_path / "a", [GuidedCallback(double)], learning_rate=1e-3)
    two = sft(base(tmp_path), tmp_path / "b", [GuidedCallback(plan)], learning_rate=2e-3)
    one.train()
    two.train()
    shutil.rmtree(tmp_path / "a" / f"checkpoint-{STEPS}")
    again = sft(base(tmp_path), tmp_path / "a", [GuidedCallback(double)], learning_rate=1e-3)
    again.train(resume_from_checkpoint=True)
    expected = digests(tmp_path / "b" / f"checkpoint-{STEPS}")
    assert digests(tmp_path / "a" / f"checkpoint-{STEPS}") == expected
