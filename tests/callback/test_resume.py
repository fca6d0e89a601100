"""Law 8: a run that is resumed ends in the same bits, and a checkpoint that does not fit is refused."""

from __future__ import annotations

import shutil

import pytest
import torch
from families import make
from trainers import MODES, STEPS, TRAINERS, base, digests, from_task, ready, settings, sft
from transformers import TrainingArguments

from guided_ft import GuidedCallback
from guided_ft.plan.attaching import trainable_names
from guided_ft.system import processes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["callback", "peft_config"])
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_resume_ends_in_the_same_bits(tmp_path, name, way, mode):
    plan = ready(make("llama"), mode)

    def build(folder):
        model = base(tmp_path)
        # TRL before 1.16 makes an adapter before it seeds.
        torch.manual_seed(0)
        if way == "callback":
            return TRAINERS[name](model, folder, [from_task(mode, name)])
        return TRAINERS[name](model, folder, [GuidedCallback(plan)], plan.peft_config())

    build(tmp_path / "whole").train()
    build(tmp_path / "cut").train()
    shutil.rmtree(tmp_path / "cut" / f"checkpoint-{STEPS}")
    build(tmp_path / "cut").train(resume_from_checkpoint=True)
    assert digests(tmp_path / "cut" / f"checkpoint-{STEPS}") == digests(tmp_path / "whole" / f"checkpoint-{STEPS}")


def test_a_resumed_script_does_not_localize_again(tmp_path, monkeypatch):
    first = from_task("slice")
    sft(base(tmp_path), tmp_path / "run", [first]).train()
    monkeypatch.setattr("guided_ft.scorers.localize.localize", lambda *a, **k: pytest.fail("localized again"))
    second = from_task("slice")
    sft(base(tmp_path), tmp_path / "run", [second])
    assert second.plan == first.plan
    third = from_task("slice", seed=1)
    with pytest.raises(pytest.fail.Exception):
        sft(base(tmp_path), tmp_path / "run", [third])


@pytest.mark.parametrize("kept", [False, True])
def test_every_rank_trains_what_the_first_one_chose_or_has_kept(tmp_path, monkeypatch, kept):
    firsts = ready(make("llama"), "slice")
    monkeypatch.setattr(processes, "same", lambda mine: (firsts.to_dict(), firsts.arrays) if mine or kept else None)
    if kept:
        monkeypatch.setattr("guided_ft.scorers.localize.localize", lambda *a, **k: pytest.fail("localized again"))
    callback, model = from_task("slice", retain=None), base(tmp_path)
    callback.on_init_end(TrainingArguments(**settings(tmp_path / "run")), None, None, model=model)
    assert callback.plan == firsts
    assert trainable_names(model) == firsts.expected_trainable
