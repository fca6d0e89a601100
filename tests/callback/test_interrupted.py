"""A training that ends by an error or Control-C tells no callback: what it left on the model must not outlive it."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import pytest
import torch
from batches import batch, gradients
from families import make
from trainers import plain
from transformers import TrainerCallback

from guided_ft import Anatomy, GuidedCallback, Plan, Selection
from guided_ft.callback.call import TrainerCall
from guided_ft.errors import GuidedError


class Stop(TrainerCallback):
    """Ends a run as Control-C would."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


def plan_of(model, places: str, mode: str = "slice") -> Plan:
    return Plan(Selection.parse(places, Anatomy.of(model)), mode)


def interrupted(folder: Path, mode: str, cache: str | None = "1MB", full_logits: bool = False):
    """The model that a run of eight steps was training when it was interrupted after the third."""
    model = make("llama", layers=4)
    callback = GuidedCallback(plan_of(model, "L3.N5", mode), prefix_cache=cache, full_logits=full_logits)
    trainer = plain(model, folder, [callback, Stop()], max_steps=8)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    return trainer.model


def leftovers(model) -> list[str]:
    hooks = [name for name, p in model.named_parameters() if p._post_accumulate_grad_hooks]
    return hooks + [name for name, module in model.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize("full_logits", [False, True])
@pytest.mark.parametrize("cache", [None, "1MB"])
@pytest.mark.parametrize("mode", ["freeze", "slice", "lora"])
def test_the_next_forward_pass_is_a_plain_one(mode, cache, full_logits, tmp_path):
    model = interrupted(tmp_path, mode, cache, full_logits)
    assert leftovers(model), "nothing was left, so there is nothing to test"
    inputs = batch()
    before = copy.deepcopy(model)
    for each in (before, model):
        each.train()
        assert each(**inputs).logits.shape[:2] == tuple(inputs["input_ids"].shape)
    assert not leftovers(model)
    model.requires_grad_(True)
    _, found = gradients(model, inputs)
    assert any(".layers.0." in name for name in found)


def test_full_fine_tuning_afterwards_trains_every_layer(tmp_path):
    model = interrupted(tmp_path / "a", "freeze").requires_grad_(True)
    before = [layer.mlp.up_proj.weight.detach().clone() for layer in model.model.layers]
    plain(model, tmp_path / "b", [], max_steps=2).train()
    now = [layer.mlp.up_proj.weight for layer in model.model.layers]
    assert all(not torch.equal(old, new) for old, new in zip(before, now, strict=True))


@pytest.mark.parametrize("mode", ["freeze", "slice"])
def test_another_plan_afterwards_trains_what_it_says(mode, tmp_path):
    model = interrupted(tmp_path / "a", "slice").unload()
    callback = GuidedCallback(plan_of(model, "L0.N3 L3.N1", mode))
    trainer = plain(model, tmp_path / "b", [callback], max_steps=4)
    assert not leftovers(trainer.model)
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    now = dict(trainer.model.named_parameters())
    assert {name for name in start if not torch.equal(start[name], now[name])} == set(start)
    assert callback.certificate.ok


def test_the_same_trainer_goes_on(tmp_path):
    model = make("llama", layers=4)
    callback = GuidedCallback(plan_of(model, "L3.N5"), prefix_cache="1MB")
    trainer = plain(model, tmp_path, [callback, Stop()], max_steps=8)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(Stop)
    trainer.train()
    assert callback.certificate.ok
    assert not leftovers(trainer.model)


def test_a_refused_cache_leaves_nothing(tmp_path):
    model = make("llama", layers=4)
    model.model.layers[0].self_attn.attention_dropout = 0.1
    trainer = plain(model, tmp_path, [GuidedCallback(plan_of(model, "L3.N5"), prefix_cache="1MB")], max_steps=24)
    with pytest.raises(GuidedError, match="attention_dropout"):
        trainer.train()
    assert not leftovers(trainer.model)


# -- the call on the stack ------------------------------------------------------------------------------------------------
def test_a_call_is_over_when_it_has_left_the_stack(tmp_path):
    seen = []

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            seen.append(TrainerCall())

        def on_step_end(self, args, state, control, **kwargs):
            elsewhere = []
            thread = threading.Thread(target=lambda: elsewhere.append(seen[0].over()))
            thread.start()
            thread.join()
            seen.append((seen[0].over(), elsewhere[0]))

    trainer = plain(make("llama"), tmp_path, [Look()], max_steps=2)
    trainer.train()
    assert seen[1:] == [(False, False)] * 2, "another thread cannot see it, so it does not end it"
    assert seen[0].over()
    trainer.train()
    assert seen[0].over(), "a later call is another one"
    assert not TrainerCall().over(), "outside of any call nothing is known"
