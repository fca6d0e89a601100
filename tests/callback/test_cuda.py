"""The same laws on a GPU, where there is one."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import tiny
import torch
from families import NAMES, logits, make, tokens
from trainers import STEPS, base, digests, dpo, from_task, ready, sft

from guided_ft import GuidedCallback, Task, localize
from guided_ft.anatomy import KINDS
from guided_ft.system.machine import peak_bytes, reset_peak

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("method", ["attribution", "gradient"])
def test_scores_are_those_of_the_cpu(family, method):
    task = Task.from_dataset(tiny.sums(6), tiny.tokenizer())
    here, there = make(family), make(family).cuda()
    cpu, gpu = (localize(m, task, method, retain=None) for m in (here, there))
    for kind in KINDS:
        np.testing.assert_allclose(gpu.of(kind), cpu.of(kind), rtol=1e-3, atol=1e-4 * np.abs(cpu.of(kind)).max())


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_birth_and_disabling_are_bit_exact(family, dtype):
    model = make(family, dtype).cuda()
    ids = tokens().cuda()
    before = logits(model, ids)
    attached = ready(model, "slice").attach(model)
    assert torch.equal(logits(attached, ids), before)
    for p in attached.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p)
    assert not torch.equal(logits(attached, ids), before)
    with attached.disable_adapter():
        assert torch.equal(logits(attached, ids), before)


@pytest.mark.parametrize("mode", ["slice", "freeze", "lora"])
@pytest.mark.parametrize("trainer", [sft, dpo])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_resumed_certified(tmp_path, trainer, mode, dtype):
    def build(name):
        callback = from_task(mode, "dpo" if trainer is dpo else "sft")
        return trainer(base(tmp_path, dtype=dtype), tmp_path / name, [callback], use_cpu=False), callback

    whole, callback = build("whole")
    assert next(whole.model.parameters()).is_cuda
    whole.train()
    assert callback.certificate.ok
    build("cut")[0].train()
    shutil.rmtree(tmp_path / "cut" / f"checkpoint-{STEPS}")
    build("cut")[0].train(resume_from_checkpoint=True)
    assert digests(tmp_path / "cut" / f"checkpoint-{STEPS}") == digests(tmp_path / "whole" / f"checkpoint-{STEPS}")


def test_dpo_starts_at_ln_2(tmp_path):
    plan = ready(make("llama"), "slice")
    trainer = dpo(base(tmp_path), tmp_path / "run", [GuidedCallback(plan)], plan.peft_config(), use_cpu=False)
    trainer.train()
    first = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert first == pytest.approx(math.log(2), abs=1e-4)


def test_the_peak_of_memory_starts_anew():
    large = torch.zeros(256 << 20, dtype=torch.uint8, device="cuda")
    with_it = peak_bytes()
    del large
    reset_peak()
    assert peak_bytes() < with_it - (200 << 20)
