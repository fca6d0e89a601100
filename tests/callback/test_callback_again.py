"""What users do besides: a callback used again, checkpoints of other runs, losses and models of their own."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from families import make
from peft import PeftModel
from trainers import MODES, SAVE, STEPS, another, base, from_task, plain, ready, settings, sft
from transformers import Trainer, TrainingArguments

from guided_ft import GuidedCallback, Plan, Selection, Task, localize
from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_of_another_run_is_checked_where_it_lies(tmp_path, mode):
    model = make("llama")
    sft(base(tmp_path), tmp_path / "a", [GuidedCallback(ready(model, mode))]).train()
    other = another(model, mode)
    if mode != "freeze":
        assert other.expected_trainable == ready(model, mode).expected_trainable
    trainer = sft(base(tmp_path), tmp_path / "b", [GuidedCallback(other)])
    with pytest.raises(GuidedError, match=f"checkpoint-{SAVE} cannot be resumed .it was made by another plan"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{SAVE}"))


def test_what_another_run_lacks_is_said_though_the_own_checkpoint_is_whole(tmp_path):
    plan = ready(make("llama"), "slice")
    for run in ("a", "b"):
        sft(base(tmp_path), tmp_path / run, [GuidedCallback(plan)]).train()
    (tmp_path / "a" / f"checkpoint-{SAVE}" / "optimizer.pt").unlink()
    trainer = sft(base(tmp_path), tmp_path / "b", [GuidedCallback(plan)])
    with pytest.raises(GuidedError, match=r"optimizer\.pt missing"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{SAVE}"))


def test_a_plan_that_another_callback_left_is_not_taken_for_the_located_one(tmp_path):
    first = from_task("slice")
    sft(base(tmp_path), tmp_path / "run", [first])
    sft(base(tmp_path), tmp_path / "run", [GuidedCallback(ready(make("llama"), "slice"))])
    again = from_task("slice")
    sft(base(tmp_path), tmp_path / "run", [again])
    assert again.plan == first.plan


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "freeze"])
def test_what_was_saved_trains_on_by_the_same_plan(tmp_path, mode):
    plan = ready(make("llama"), mode)
    first = sft(base(tmp_path), tmp_path / "a", [GuidedCallback(plan)])
    first.train()
    first.save_model(str(tmp_path / "saved"))
    model = PeftModel.from_pretrained(base(tmp_path), tmp_path / "saved", is_trainable=True)
    callback = GuidedCallback(plan)
    sft(model, tmp_path / "b", [callback]).train()
    assert callback.certificate.ok
    assert callback.certificate.total > 0


def test_one_callback_locates_afresh_in_another_model(tmp_path):
    callback = from_task("slice")
    trainer = sft(base(tmp_path), tmp_path / "a", [callback])
    first = callback.plan
    sft(trainer.model, tmp_path / "b", [callback])
    assert callback.plan is first, "the model already trains it"
    model = make("llama", seed=5)
    sft(model, tmp_path / "c", [callback])
    assert callback.plan != first
    assert callback.plan.is_attached(model)


def test_another_budget_in_the_same_folder_is_another_plan(tmp_path):
    trained = []
    for budget in ("10%", "20%"):
        callback = GuidedCallback(task=Task.from_dataset(tiny.sums(8), tiny.tokenizer()), budget=budget)
        sft(base(tmp_path), tmp_path / "run", [callback])
        trained.append(callback.plan.num_parameters)
    assert trained[0] < trained[1]


def test_frequencies_that_a_model_computes_anew_are_no_frozen_tensors(tmp_path):
    model = make("llama")
    config = model.config
    config.rope_parameters |= {"rope_type": "dynamic", "factor": 4.0}
    config.max_position_embeddings = 4
    model = type(model)(config)
    before = model.model.rotary_emb.inv_freq.clone()
    callback = GuidedCallback(ready(model, "slice"))
    trainer = plain(model, tmp_path, [callback])
    trainer.train()
    now = trainer.model.get_decoder().rotary_emb.inv_freq
    assert not torch.equal(before, now), "nothing moved, so nothing is shown"
    assert callback.certificate.ok


@pytest.mark.parametrize("cache", ["1MB", "auto"])
def test_noise_on_the_embeddings_is_not_cached(tmp_path, cache):
    model = make("llama", layers=4)
    callback = GuidedCallback(Plan(Selection.parse("L2.N3", Anatomy.of(model))), prefix_cache=cache)
    trainer = sft(model, tmp_path, [callback], neftune_noise_alpha=5, max_steps=12)
    if cache == "auto":
        trainer.train()
        assert "neftune_noise_alpha=5 below layer 2" in callback.engine.note
    else:
        with pytest.raises(GuidedError, match="neftune_noise_alpha=5 below layer 2"):
            trainer.train()


def test_the_rate_is_scaled_once_however_often_a_trainer_trains(tmp_path):
    plan = Plan(ready(make("llama"), "slice").selection, lr_scale=3.0)
    trainer = sft(
        base(tmp_path), tmp_path / "a", [GuidedCallback(plan)], learning_rate=1e-3, lr_scheduler_type="constant"
    )
    trainer.train()
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([3e-3] * STEPS)


class OwnLoss(Trainer):
    """As users write it: cross entropy on the logits of every position."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        out = model(**inputs)
        logits, labels = out.logits[:, :-1], inputs["labels"][:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels)
        return (loss, out) if return_outputs else loss


def test_a_loss_of_ones_own_can_have_every_logit(tmp_path):
    rows = plain(base(tmp_path), tmp_path / "x", []).train_dataset
    losses = {}
    for name, callback in {"full": True, "trimmed": False}.items():
        plan = ready(make("llama"), "slice")
        kind = OwnLoss if callback else Trainer
        args = TrainingArguments(**settings(tmp_path / name))
        trainer = kind(
            base(tmp_path), args=args, train_dataset=rows, callbacks=[GuidedCallback(plan, full_logits=callback)]
        )
        trainer.train()
        losses[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses["full"] == pytest.approx(losses["trimmed"], rel=1e-4)


def test_a_model_that_the_trainer_makes_anew_is_refused_by_that_name(tmp_path):
    rows = plain(base(tmp_path), tmp_path / "x", []).train_dataset
    args = TrainingArguments(**settings(tmp_path / "run"))
    callback = GuidedCallback(ready(make("llama"), "slice"))
    trainer = Trainer(model_init=lambda: base(tmp_path), args=args, train_dataset=rows, callbacks=[callback])
    with pytest.raises(GuidedError, match="model_init makes one anew"):
        trainer.train()


def test_a_copy_of_a_model_that_a_trainer_held_is_refused(tmp_path):
    """TRL's forward on it still calls the original's."""
    model = base(tmp_path)
    sft(model, tmp_path / "a", [])
    copied, task = copy.deepcopy(model), Task.from_dataset(tiny.sums(4), tiny.tokenizer())
    told = "model: its forward pass runs another model's layers"
    for each in (lambda: localize(copied, task), lambda: ready(make("llama"), "slice").attach(copied)):
        with pytest.raises(GuidedError, match=told):
            each()
    localize(model, task, retain=None)
