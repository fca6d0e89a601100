"""Models of which nothing but linear layers is known: directions and layers serve them, and heads are refused by name."""

from __future__ import annotations

import json
import re

import pytest
import tiny
import torch
from datasets import Dataset
from families import logits
from peft import PeftModel
from torch.nn.functional import linear
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.codegen.modeling_codegen import CodeGenMLP
from trl import SFTConfig, SFTTrainer

from guided_ft import GuidedCallback, GuidedError, Recipe, Selection, Task, localize, localize_directions, run, select
from guided_ft.anatomy import Anatomy, trust
from guided_ft.engine.engine import not_repeatable
from guided_ft.estimate.estimate import estimate
from guided_ft.proofs.bench import Bench
from guided_ft.proofs.linear import gradients, subspace
from guided_ft.proofs.replica import replica_of_config

_NAMED = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_WIDE = {"hidden_size": 32, "num_hidden_layers": 2}
FAMILIES = {
    "mamba": (_WIDE | {"state_size": 4}, ["mixer.in_proj"]),
    "rwkv": (
        _WIDE | {"attention_hidden_size": 32, "intermediate_size": 64, "context_length": 64, "rescale_every": 0},
        [f"attention.{name}" for name in ("key", "value", "receptance", "output")]
        + [f"feed_forward.{name}" for name in ("key", "receptance", "value")],
    ),
    "codegen": (
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
        ["attn.qkv_proj", "attn.out_proj", "mlp.fc_in", "mlp.fc_out"],
    ),
}
NAMES = list(FAMILIES)


def make(name):
    torch.manual_seed(0)
    settings, _ = FAMILIES[name]
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **_NAMED, **settings)).eval()


def task(count=8):
    return Task.from_dataset(tiny.sums(count), tiny.tokenizer(), batch_size=4)


@pytest.mark.parametrize("name", NAMES)
def test_the_linear_layers_that_see_every_token_are_read(name):
    anatomy = Anatomy.of(make(name))
    assert (anatomy.layout, anatomy.num_layers, anatomy.hidden_size) == ("linear", 2, 32)
    assert list(anatomy.shapes) == FAMILIES[name][1]
    assert Anatomy.from_dict(json.loads(json.dumps(anatomy.to_dict()))) == anatomy
    assert {s.module.split(".", 3)[3] for s in anatomy.slices("L1")} == set(anatomy.shapes)


@pytest.mark.parametrize("name", NAMES)
def test_directions_are_located_trained_certified_and_merged(name, tmp_path):
    base = make(name)
    # As the trainer leaves it: keys out of a cache lie otherwise in memory, and may round otherwise.
    base.config.use_cache = False
    base.save_pretrained(tmp_path / "base")
    before = logits(base)
    callback = GuidedCallback(task=tiny.sums(8), budget="10%")
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
        args=SFTConfig(str(tmp_path / "run"), max_steps=4, bf16=False, use_cpu=True, report_to=[], max_length=32),
        train_dataset=Dataset.from_list(tiny.sums(16)),
        processing_class=tiny.tokenizer(),
        callbacks=[callback],
    )
    trainer.train()
    trainer.save_model()
    assert re.fullmatch(r"(\d+) of \1 frozen tensors bit-identical", str(callback.certificate))
    model = trainer.model
    trained = logits(model)
    assert (trained - before).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model), before)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "run").eval()
    assert torch.equal(logits(again), trained)
    assert (logits(again.merge_and_unload(safe_merge=True)) - trained).abs().max() <= 1e-5 * trained.abs().max()


@pytest.mark.parametrize("name", ["mamba", "codegen"])
def test_layers_are_scored_and_chosen_and_heads_are_refused_by_name(name):
    model = make(name)
    scores = localize(model, task(), "attribution", retain=None)
    assert scores.kinds == ("layer",)
    assert select(scores, "90%", "layer").components
    assert localize_directions(model, task(), None).component_scores().kinds == ("layer",)
    said = f"heads of {name}, a family without a row "
    anatomy = scores.anatomy
    for use in (
        lambda: localize(model, task(), "attribution", kinds=("head",)),
        lambda: select(scores, "50%", "head"),
        lambda: Selection.parse("L0.H0", anatomy),
    ):
        with pytest.raises(GuidedError, match=said):
            use()
    with pytest.raises(GuidedError, match="not proved, and needed here: the final norm and the unembedding"):
        localize(model, task(), "logit_lens", kinds=("layer",))


@pytest.mark.parametrize("typed", [["budget=15%"], ["mode=slice", "kinds=[layer]", "budget=60%"]])
def test_a_recipe_runs_from_a_file_to_a_report(typed, tmp_path):
    make("mamba").save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.sums(12)))
    small = ["steps=1", "control=none", "localize.examples=4", "retention_examples=2", "retention_tokens=8"]
    where = [f"model={tmp_path / 'model'}", f"output={tmp_path / 'run'}"]
    record = run(Recipe.load(str(tmp_path / "rows.jsonl"), [*where, *small, *typed]), quiet=True)
    assert {check["ok"] for check in record["checks"]} == {True}
    assert (tmp_path / "run" / "report.html").exists()


def test_logits_are_compared_of_frozen_models():
    """Weights that ask for gradients are multiplied in another order, which some processors round differently."""
    model, asked = make("mamba"), []
    model.register_forward_pre_hook(
        lambda module, args: asked.append(any(p.requires_grad for p in module.parameters()))
    )
    model.lm_head.weight.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    Bench(model, Anatomy.of(model)).logits()
    assert asked[-1] is False
    assert [p.requires_grad for p in model.parameters()] == before
    assert True in before


def test_what_is_not_known_is_not_made_use_of(tmp_path):
    model = make("mamba")
    assert "hand on to each other is not known" in not_repeatable(model, Anatomy.of(model), 1)
    model.config.save_pretrained(tmp_path)
    with pytest.raises(GuidedError, match="of a family without a row, what whose steps cost is not known here"):
        estimate(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "settings", "mixer"),
    [
        ("falcon_h1", {}, "mamba.in_proj"),
        ("bamba", {"attn_layer_indices": [9, 18]}, "mamba.in_proj"),
        ("lfm2", {"layer_types": ["conv", "full_attention"] * 16}, "conv.in_proj"),
        ("qwen3_5_text", {}, "linear_attn.in_proj_qkv"),
    ],
)
def test_directions_serve_the_mixers_of_families_whose_heads_are_known(name, settings, mixer):
    tiny_copy = replica_of_config(AutoConfig.for_model(name, **settings))
    bench = Bench(tiny_copy, Anatomy.of(tiny_copy))
    assert mixer in bench.anatomy.shapes
    assert bench.anatomy.layers_of("head")
    gradients(bench)
    subspace(bench)


# -- the proofs can fail -----------------------------------------------------------------------------------------------
def _behind_the_back(self, x):
    return self.fc_out(self.act(linear(x, self.fc_in.weight, self.fc_in.bias)))


def _twice(self, x):
    return self.fc_out(self.act(self.fc_in(x))) + self.fc_out(self.act(self.fc_in(2 * x)))


def _both_ways(self, x):
    return self.fc_out(self.act(self.fc_in(x + x.mean(1, keepdim=True))))


@pytest.mark.parametrize(
    ("forward", "law"),
    [(_behind_the_back, "'linear' failed: transformer.h.0.mlp.fc_in is never called"), (_both_ways, "'causal' failed")],
)
def test_a_model_whose_linear_layers_do_something_else_is_refused(monkeypatch, forward, law):
    monkeypatch.setattr(trust, "_PROVED", {})
    monkeypatch.setattr(CodeGenMLP, "forward", forward)
    with pytest.raises(GuidedError, match=law):
        Anatomy.of(make("codegen"))


def test_a_layer_that_is_called_twice_is_still_true(monkeypatch):
    monkeypatch.setattr(trust, "_PROVED", {})
    monkeypatch.setattr(CodeGenMLP, "forward", _twice)
    assert Anatomy.prove(make("codegen"))
