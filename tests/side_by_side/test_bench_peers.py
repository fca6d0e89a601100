"""The peers train what their papers say, and nothing else."""

from __future__ import annotations

import pytest
import tiny
import torch
from datasets import Dataset
from families import make
from trl import SFTConfig, SFTTrainer

from benchmarks.side_by_side.training import peers


def train(model, callback=None, optimizer=None, steps=4):
    args = SFTConfig(
        "unused", max_steps=steps, use_cpu=True, bf16=False, report_to=[], save_strategy="no", learning_rate=1e-2,
        weight_decay=0.0, max_grad_norm=0.0, disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model,
        args=args,
        train_dataset=Dataset.from_list(tiny.sums(16)),
        processing_class=tiny.tokenizer(),
        callbacks=[callback] if callback else [],
        optimizers=(optimizer, None),
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    return trainer, moved


def layer(name):
    return name.split(".")[2] if ".layers." in name else None


def deep():
    return make("llama", layers=5)


def test_lisa_trains_two_layers_at_a_time_and_the_ends_always(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = deep()
    lisa = peers.Lisa(model, seed=0)
    _, moved = train(model, lisa)
    assert len({layer(n) for n in moved} - {None}) == 2
    outside = {n for n, _ in model.named_parameters() if layer(n) is None}
    assert outside <= moved
    inside = {n for n in moved if layer(n) is not None}
    assert inside == {n for n, _ in model.named_parameters() if layer(n) in {layer(m) for m in inside}}


def test_lisa_draws_anew_and_forgets_the_resting_layers_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = deep()
    lisa = peers.Lisa(model, seed=1)
    lisa.every = 2
    held, drawn = [], []

    def on_step_end(args, state, control, model=None, **kwargs):
        optimizer = kwargs["optimizer"]
        names = {p: n for n, p in model.named_parameters()}
        held.append({names[p] for p in getattr(optimizer, "optimizer", optimizer).state})
        drawn.append({n for n, p in model.named_parameters() if p.requires_grad})

    lisa.on_step_end = on_step_end
    train(model, lisa, steps=8)
    assert held == drawn
    assert len({frozenset(names) for names in drawn}) > 1
    assert all(p.requires_grad for p in model.parameters())


def test_half_fine_tuning_trains_half_of_each_category(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make("llama", layers=4)
    _, moved = train(model, peers.HalfFineTuning(model, seed=0))
    mlp = []
    for i in range(4):
        here = [n for n in moved if layer(n) == str(i)]
        assert sum("self_attn" in n for n in here) == 2
        assert sum("norm" in n for n in here) == 1
        mlp.append(sum("mlp" in n for n in here))
    assert sorted(mlp) == [1, 1, 2, 2]


def test_draws_depend_on_the_seed():
    model = deep()
    chosen = [frozenset(peers.HalfFineTuning(model, seed).chosen(model)) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "v_proj"]])
def test_lora_comes_nearest_to_the_number_of_parameters(modules):
    def count(wanted):
        changed = peers.lora(modules)(make("llama"), wanted, 0)
        return sum(p.numel() for p in changed.parameters() if p.requires_grad)

    one = count(1)
    assert count(3 * one + one // 3) == 3 * one
    assert count(4 * one - one // 3) == 4 * one


def test_adapters_of_the_same_rank_have_as_many_parameters_as_lora():
    def count(model):
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    wanted = 3 * count(peers.lora("all-linear")(make("llama"), 1, 0))
    assert count(peers.shira(make("llama"), wanted, 0)) == wanted
    assert count(peers.lora("all-linear", use_rslora=True)(make("llama"), wanted, 0)) == wanted
    # DoRA adds a magnitude per output.
    assert wanted < count(peers.lora("all-linear", use_dora=True)(make("llama"), wanted, 0)) < 2 * wanted


def test_badam_is_its_authors_or_is_refused(monkeypatch):
    import sys

    from guided_ft import GuidedError

    monkeypatch.setitem(sys.modules, "badam", None)
    with pytest.raises(GuidedError, match=r"badam: cannot be used here .*pip install badam"):
        peers.badam(deep(), 1e-3)


def test_badam_trains_one_layer_at_a_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = deep()
    _, moved = train(model, optimizer=peers.badam(model, 1e-2))
    assert {layer(n) for n in moved} == {"4"}


@pytest.mark.parametrize("wanted", [200, 5000])
def test_oft_comes_nearest_to_the_number_of_parameters(wanted):
    model = make("llama")
    inputs = [module.in_features for _, module in peers.linear(model)]
    sizes = [sum(i * (b - 1) // 2 for i in inputs) for b in (2, 4, 8, 16, 32)]
    found = sum(p.numel() for p in peers.oft(model, wanted, 0).parameters() if p.requires_grad)
    assert abs(found - wanted) == min(abs(size - wanted) for size in sizes)
