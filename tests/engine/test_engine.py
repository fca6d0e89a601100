"""The engine: cheaper steps that compute the same."""

from __future__ import annotations

import math

import pytest
import torch
from batches import batch, gradients
from families import MOE, NAMES, tokens
from holding import another
from prefixes import FIRST, model_of, plan_of, settings, trl_run
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from guided_ft import Anatomy, GuidedCallback
from guided_ft.engine.engine import not_repeatable
from guided_ft.engine.labelled import labelled_only
from guided_ft.engine.prefix import Prefix
from guided_ft.engine.store import PrefixStore
from guided_ft.errors import GuidedError
from guided_ft.system.files import parse_size

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("family", NAMES)
def test_the_loss_and_gradients_are_those_of_all_positions(family):
    model = plan_of(model_of(family), first=0).attach(model_of(family)).train()
    inputs = batch()
    loss, expected = gradients(model, inputs)
    with labelled_only(model, Anatomy.of(model)):
        out = model(**inputs)
        assert out.logits.shape[:2] == (1, int((inputs["labels"][:, 1:] != -100).sum()))
        found_loss, found = gradients(model, inputs)
    assert found_loss == pytest.approx(float(loss), rel=1e-6)
    assert set(found) == set(expected)
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_last_layer_works_on_scored_tokens_only():
    model = model_of("llama").train()
    seen = []
    model.model.layers[-1].mlp.down_proj.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[:2]))
    inputs = batch()
    with labelled_only(model, Anatomy.of(model)):
        model(**inputs)
    model(**inputs)
    assert seen == [(1, int((inputs["labels"][:, 1:] != -100).sum())), tuple(inputs["input_ids"].shape)]


def test_calls_that_need_every_position_get_it():
    model = model_of("llama")
    inputs = batch()
    full = tuple(inputs["input_ids"].shape)
    with labelled_only(model, Anatomy.of(model)):
        assert model(**inputs).logits.shape[:2] == full
        model.train()
        unlabelled = {k: v for k, v in inputs.items() if k != "labels"}
        assert model(**unlabelled).logits.shape[:2] == full
        assert model(**inputs, output_hidden_states=True).logits.shape[:2] == full
        nothing = inputs | {"labels": torch.full_like(inputs["labels"], -100)}
        assert model(**nothing).logits.shape[:2] == full


def test_the_model_is_given_back_as_it_was_also_after_an_error():
    model = model_of("llama").train()
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    with pytest.raises(IndexError), labelled_only(model, Anatomy.of(model)), Prefix(model, Anatomy.of(model), 1).open():
        model(**batch() | {"input_ids": torch.full((4, 13), 1000)})
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == {
        name: set(state) for name, state in before.items()
    }
    assert "forward" not in model.__dict__
    assert [type(m).__name__ for m in model.model.layers] == ["LlamaDecoderLayer"] * 4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", NAMES)
def test_stored_states_give_the_same_bits(family, attention, tmp_path):
    model = plan_of(model_of(family)).attach(model_of(family, attention)).train()
    batches = [batch(seed=s, left=s > 1) for s in range(4)]
    expected = [gradients(model, inputs) for inputs in batches]
    store = PrefixStore(tmp_path, 32, torch.float32, 1 << 20)
    prefix = Prefix(model, Anatomy.of(model), FIRST, store)
    with prefix.open():
        for _ in range(2):
            for inputs, (loss, grads) in zip(batches, expected, strict=True):
                found_loss, found = gradients(model, inputs)
                assert torch.equal(found_loss, loss)
                assert all(torch.equal(found[name], grad) for name, grad in grads.items())
    assert (prefix.hits, prefix.misses, prefix.difference) == (16, 16, 0.0)


def test_a_row_that_is_missing_is_computed_beside_those_that_are_there(tmp_path):
    model = model_of("llama").train()
    store = PrefixStore(tmp_path, 32, torch.float32, 1 << 20)
    first, second = batch(seed=0), batch(seed=1)
    mixed = {k: torch.cat([first[k][:2], second[k][2:]]) for k in first}
    with torch.no_grad():
        expected = model(**mixed).logits
        with Prefix(model, Anatomy.of(model), FIRST, store).open() as prefix:
            model(**first)
            found = model(**mixed).logits
    assert (prefix.hits, prefix.misses) == (2, 6)
    torch.testing.assert_close(found[mixed["attention_mask"].bool()], expected[mixed["attention_mask"].bool()])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_states_computed_in_bfloat16_are_not_those_of_float32(device):
    model, inputs = model_of("llama").train().to(device), {k: v.to(device) for k, v in batch().items()}
    store = PrefixStore(None, model.config.hidden_size, torch.float32, 1 << 20)
    with Prefix(model, Anatomy.of(model), FIRST, store).open() as prefix:
        with torch.autocast(device, torch.bfloat16):
            model(**inputs)
        model(**inputs)
    assert (prefix.hits, prefix.misses) == (0, 8)


@pytest.mark.parametrize("reentrant", [False, True])
def test_no_gradient_is_computed_below_with_checkpointing(reentrant):
    model = plan_of(model_of("llama")).attach(model_of("llama")).train()
    inputs = batch()
    _, expected = gradients(model, inputs)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    below = []
    for layer in model.base_model.model.model.layers[:FIRST]:
        layer.register_full_backward_hook(lambda *args: below.append(1))
    gradients(model, inputs)
    assert below, "checkpointing alone goes all the way down"
    below.clear()
    with Prefix(model, Anatomy.of(model), FIRST).open():
        _, found = gradients(model, inputs)
    assert not below
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, msg=name)


def test_states_of_another_model_are_noticed(tmp_path):
    model = model_of("llama").train()
    store = PrefixStore(tmp_path, 32, torch.float32, 1 << 20)
    with Prefix(model, Anatomy.of(model), FIRST, store).open():
        model(**batch())
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.mul_(2)
        with pytest.raises(GuidedError, match=r"stored states are off by .* below layer 2 changed"):
            model(**batch())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_losses_are_bit_equal_with_and_without_the_cache(kind, checkpointing, tmp_path):
    plan = plan_of(model_of("llama"))
    options = {"gradient_checkpointing": checkpointing}
    without, plain = trl_run(kind, tmp_path / "a", GuidedCallback(plan), **options)
    callback = GuidedCallback(plan, prefix_cache="1MB")
    with_cache, cached = trl_run(kind, tmp_path / "b", callback, **options)
    assert len(without) == 12
    assert with_cache == without
    assert callback.engine.summary()["hits"] > 0
    assert callback.engine.summary()["difference"] == 0
    for (name, a), (_, b) in zip(plain.model.named_parameters(), cached.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert not any("forward" in m.__dict__ and "partial" in repr(m.forward) for m in cached.model.modules())


def test_what_another_process_caches_is_left_alone(tmp_path):
    """Two scripts with one output_dir: one trained on the states that the other had written over its own."""
    plan = plan_of(model_of("llama"))
    without, _ = trl_run("sft", tmp_path / "a", GuidedCallback(plan))
    theirs = tmp_path / "b" / "_guided" / "prefix" / "rank-0"
    with another(theirs) as (process, _):
        (theirs / "key").mkdir()
        callback = GuidedCallback(plan, prefix_cache="1MB")
        beside, _ = trl_run("sft", tmp_path / "b", callback)
        assert f"in use by process {process.pid}" in callback.engine.summary()["note"]
    assert beside == without
    assert sorted(path.name for path in theirs.iterdir()) == ["in-use.lock", "key"]


def test_plain_trainer_gets_the_losses_of_no_engine_at_all(tmp_path):
    inputs = batch(rows=8)
    rows = [{k: v[i] for k, v in inputs.items()} for i in range(8)]

    def losses(callbacks, model, folder):
        args = TrainingArguments(**settings(folder))
        trainer = Trainer(model, args=args, train_dataset=rows, callbacks=callbacks)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    plan = plan_of(model_of("gpt2"))
    plain = losses([], plan.attach(model_of("gpt2")), tmp_path / "a")
    callback = GuidedCallback(plan, prefix_cache="auto")
    guided = losses([callback], model_of("gpt2"), tmp_path / "b")
    assert guided == pytest.approx(plain, rel=1e-5)
    assert callback.engine.summary()["hits"] == 12 * 4 - 8


def test_a_resumed_run_finds_what_the_first_one_stored(tmp_path):
    plan = plan_of(model_of("llama"))
    whole, _ = trl_run("sft", tmp_path / "a", GuidedCallback(plan))
    options = {"save_strategy": "steps", "save_steps": 8, "pad_to_multiple_of": 16}
    trl_run("sft", tmp_path / "b", GuidedCallback(plan, prefix_cache="1MB"), max_steps=8, **options)
    callback = GuidedCallback(plan, prefix_cache="1MB")
    resumed, _ = trl_run("sft", tmp_path / "b", callback, resume=True, **options)
    assert len(whole) == len(resumed) == 12
    assert callback.engine.summary() | {"difference": 0} == {
        "cache": True,
        "first": 2,
        "hits": 16,
        "misses": 0,
        "difference": 0,
    }


class Stop(TrainerCallback):
    """Ends a run as a crash would."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 9:
            raise KeyboardInterrupt


def test_a_run_that_dies_leaves_what_it_stored_until_its_last_save(tmp_path):
    callback = GuidedCallback(plan_of(model_of("llama")), prefix_cache="1MB")
    with pytest.raises(KeyboardInterrupt):
        trl_run("sft", tmp_path, callback, more=[Stop()], save_strategy="steps", save_steps=8)
    (index,) = (tmp_path / "_guided" / "prefix").rglob("index.csv")
    assert len(index.read_text().splitlines()) > 16


def test_dpo_over_one_epoch_shares_states_between_policy_and_reference(tmp_path):
    callback = GuidedCallback(plan_of(model_of("llama")), prefix_cache="auto")
    losses, _ = trl_run("dpo", tmp_path, callback, max_steps=4)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    summary = callback.engine.summary()
    assert summary["hits"] == summary["misses"] == 4 * 8
    assert not (tmp_path / "_guided" / "prefix").exists()


@pytest.mark.parametrize(
    ("options", "first", "note"),
    [
        ({"max_steps": 4}, FIRST, "the data is passed over once"),
        ({}, 0, "the plan trains layer 0"),
        ({"packing": True, "packing_strategy": "wrapped"}, FIRST, "packing puts other texts together"),
    ],
)
def test_it_turns_itself_off_with_a_note(options, first, note, tmp_path, caplog):
    callback = GuidedCallback(plan_of(model_of("llama"), first), prefix_cache="1MB")
    trl_run("sft", tmp_path, callback, **options)
    assert note in callback.engine.note
    assert callback.engine.summary() == {"cache": False, "note": callback.engine.note}
    assert note in caplog.text


def test_dropout_below_refuses_a_cache_that_was_asked_for(tmp_path):
    model = model_of("llama")
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    plan = plan_of(model)
    with pytest.raises(
        GuidedError, match=r"prefix_cache: attention_dropout=0.1 below layer 2 makes its states random \(set it to 0\)"
    ):
        trl_run("sft", tmp_path / "a", GuidedCallback(plan, prefix_cache="1MB"), model=model)
    model = model_of("llama")
    model.model.layers[0].self_attn.attention_dropout = 0.1
    callback = GuidedCallback(plan, prefix_cache="auto")
    trl_run("sft", tmp_path / "b", callback, model=model, max_steps=1)
    assert "dropout" in callback.engine.note


@pytest.mark.parametrize(
    ("family", "noise", "name"),
    [
        ("mixtral", {}, None),
        ("mixtral", {"router_jitter_noise": 0.01}, "jitter_noise=0.01"),
        ("phimoe", {}, "router_jitter_noise=0.01"),
        ("phimoe", {"input_jitter_noise": 0.0, "router_jitter_noise": 0.0}, None),
    ],
)
def test_a_routers_noise_below_refuses_it(family, noise, name):
    """Oracle: two passes over the same tokens; PhiMoE draws between experts that are nearly as good, which are few."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **MOE["mixtral"] | noise))
    model.requires_grad_(False).train()
    ids = tokens(rows=32, length=32)
    first, second = (model(input_ids=ids, output_hidden_states=True).hidden_states[1] for _ in range(2))
    assert torch.equal(first, second) == (name is None)
    found = not_repeatable(model, Anatomy.of(model), 1)
    assert found is None if name is None else f"{name} below layer 1 makes its states random" in found


def test_trained_weights_below_refuse_it():
    model = model_of("llama").requires_grad_(False)
    anatomy = Anatomy.of(model)
    assert not_repeatable(model, anatomy, FIRST) is None
    model.model.layers[1].mlp.up_proj.weight.requires_grad_(True)
    assert "layers.1.mlp.up_proj.weight is trained below layer 2" in str(not_repeatable(model, anatomy, FIRST))


@pytest.mark.parametrize("size", ["much", "-1", "0", 0, "2 parsecs", True, ""])
def test_sizes_that_are_none(size, tmp_path):
    with pytest.raises(GuidedError, match=r"prefix_cache: .* is not a size"):
        GuidedCallback(plan_of(model_of("llama")), prefix_cache=size)


def test_sizes():
    assert [parse_size(s) for s in ("2GB", "1.5 KiB", 4096, "7")] == [2 * 10**9, 1536, 4096, 7]
