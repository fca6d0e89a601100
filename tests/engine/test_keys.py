"""What the name of stored states depends on: each of these, forgotten, would hand out the states of something else."""

from __future__ import annotations

import pytest
import torch
from batches import batch
from families import make
from prefixes import FIRST, model_of, plan_of, trl_run

from guided_ft import Anatomy, GuidedCallback
from guided_ft.engine.prefix import Prefix
from guided_ft.engine.store import PrefixStore


def found(model, first, second) -> int:
    """How many rows of the second batch are found after the first."""
    store = PrefixStore(None, model.config.hidden_size, torch.float32, 1 << 20)
    with torch.no_grad(), Prefix(model, Anatomy.of(model), FIRST, store).open() as prefix:
        model(**first)
        model(**second)
    return prefix.hits


def test_every_input_is_part_of_it():
    model, inputs = model_of("gpt2").train(), batch()
    assert found(model, inputs, inputs) == 4
    hidden = inputs["attention_mask"].clone()
    hidden[:, 2] = 0
    assert found(model, inputs, inputs | {"attention_mask": hidden}) == 0, "another mask"
    moved = {k: torch.roll(v, 1, 1) for k, v in inputs.items() if k != "labels"}
    assert found(model, inputs, moved) == 0, "other places"
    longer = {k: torch.nn.functional.pad(v, (0, 1)) for k, v in inputs.items() if k != "labels"}
    assert found(model, inputs, longer) == 0, "another length"
    wide = inputs["attention_mask"].sum(1) == inputs["input_ids"].shape[1]
    assert wide.any()
    assert found(model, inputs, {k: v[wide] for k, v in inputs.items()}) == 0, "a batch without padding"


def test_another_model_in_the_same_folder_finds_nothing(tmp_path):
    plan = plan_of(model_of("llama"))
    trl_run("sft", tmp_path, GuidedCallback(plan, prefix_cache="1MB"))
    again = GuidedCallback(plan, prefix_cache="1MB")
    trl_run("sft", tmp_path, again)
    assert again.engine.summary()["misses"] == 0
    other, losses = GuidedCallback(plan, prefix_cache="1MB"), []
    for folder, callback in ((tmp_path, other), (tmp_path / "plain", GuidedCallback(plan))):
        model = make("llama", layers=4, seed=5)
        model.set_attn_implementation("sdpa")
        losses.append(trl_run("sft", folder, callback, model=model)[0])
    assert other.engine.summary()["misses"] >= 16
    assert losses[0] == losses[1]


@pytest.mark.parametrize("what", ["start", "attention"])
def test_another_start_or_attention_in_the_same_folder_finds_nothing(what, tmp_path):
    """The same frozen weights, of which other layers are run, or in another way."""
    first = 1 if what == "start" else FIRST
    attention = "eager" if what == "attention" else "sdpa"
    trl_run("sft", tmp_path, GuidedCallback(plan_of(model_of("llama")), prefix_cache="1MB"))
    losses = []
    for folder, cache in ((tmp_path, "1MB"), (tmp_path / "plain", None)):
        model = model_of("llama", attention)
        callback = GuidedCallback(plan_of(model, first), prefix_cache=cache)
        losses.append(trl_run("sft", folder, callback, model=model)[0])
        if cache:
            assert callback.engine.summary()["misses"] >= 16
    assert losses[0] == losses[1]
