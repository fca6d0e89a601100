"""Every family of ``proved.py`` is proved; and the proofs fail where something is wrong."""

from __future__ import annotations

import dataclasses

import families
import proved
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from guided_ft.anatomy import FAMILIES, Anatomy, Rows, recognise, trust
from guided_ft.anatomy import families as table
from guided_ft.errors import GuidedError
from guided_ft.proofs.replica import replica_of_config


@pytest.mark.parametrize("known", proved.TABLE, ids=lambda known: known.name)
def test_it_is_proved(known):
    proof = Anatomy.prove(known.config())
    assert proof, proof
    assert (proof.layout, proof.unproved) == (known.layout, known.unproved), proof
    kinds, engine = (next(f.words for f in proof.findings if f.name == name) for name in ("kinds", "engine"))
    assert (" layers" in kinds) == bool(known.apart), kinds
    assert engine.startswith("logits at labels only")
    assert ("from the cache" in engine) == known.cached


def test_the_page_is_what_the_table_says():
    assert proved.PAGE.read_text(encoding="utf-8") == proved.text(), "run: python tests/tools/proved.py"


def test_every_row_and_every_type_is_in_the_table():
    """A type of a text model inside a wrapper is proved there."""
    layouts = {known.layout for known in proved.TABLE}
    assert layouts == {f.layout for f in FAMILIES}
    types = {known.config().get_text_config().model_type for known in proved.TABLE}
    assert {name for f in FAMILIES for name in f.model_types} <= types


@pytest.mark.parametrize("known", [k for k in proved.TABLE if k.how == "row"], ids=lambda known: known.name)
def test_a_row_says_itself_what_does_not_hold(known):
    """Listed families are not proved when they are used: their rows are believed."""
    [row] = [f for f in FAMILIES if f.layout == known.layout]
    normed = any(getattr(known.config(), setting) != value for setting, value in row.stream)
    assert normed or set(row.unproved) == set(known.unproved)


# -- the proofs can fail -----------------------------------------------------------------------------------------------
def failed(proof) -> set[str]:
    return {f.name for f in proof.findings if not f.holds}


def with_row(monkeypatch, layout: str, **changes) -> None:
    """Have the row of a layout say something else."""
    rows = tuple(dataclasses.replace(f, **changes) if f.layout == layout else f for f in FAMILIES)
    for module in (table, trust):
        monkeypatch.setattr(module, "FAMILIES", rows)


@pytest.mark.parametrize(
    ("name", "changes", "law"),
    [
        ("gpt_neox", {"query": Rows("attention.query_key_value")}, "rows"),
        ("olmo2", {"joint_norm": False}, "rows"),
        ("llama", {"joint_norm": True}, "rows"),
        ("mixtral", {"up": (Rows("mlp.experts.gate_up_proj", stride=2), Rows("mlp.experts.gate_up_proj"))}, "rows"),
        ("llama", {"key": Rows("self_attn.v_proj"), "value": Rows("self_attn.k_proj")}, "ablation"),
        ("gptj", {"parallel": False}, "reads"),
        ("phi", {"parallel": False}, "reads"),
        ("gemma2", {"norms": ("input_layernorm", "post_attention_layernorm")}, "reads"),
        ("gemma2", {"post_norms": ("", "")}, "writes"),
        ("granite", {"writes": ""}, "writes"),
        ("granite", {"logits": "logits_scaling"}, "logits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_that_is_wrong_is_found_out(monkeypatch, name, changes, law):
    with_row(monkeypatch, name, **changes)
    settings = next(known.settings for known in proved.TABLE if known.model_type == name)
    assert law in failed(Anatomy.prove(AutoConfig.for_model(name, **settings)))


def test_a_model_that_computes_something_else_is_found_out(monkeypatch):
    """DiffLlama has the parts of a Llama, and wires them otherwise: what is left is linear layers."""
    model = replica_of_config(AutoConfig.for_model("diffllama"))
    assert Anatomy.of(model).layout == "linear"
    monkeypatch.setattr(trust, "_PROVED", {})
    monkeypatch.setattr(trust, "has_linear_layers", lambda base: False)
    with pytest.raises(GuidedError, match=r"^diffllama: built like 'llama', but the proof of 'rows' failed: L0.H0 in "):
        Anatomy.of(model)


# -- families without a row --------------------------------------------------------------------------------------------
def unlist(monkeypatch, name: str) -> None:
    rows = [
        dataclasses.replace(f, name=f.layout, model_types=tuple(t for t in f.model_types if t != name))
        for f in FAMILIES
    ]
    for module in (table, trust, recognise):
        monkeypatch.setattr(module, "FAMILIES", tuple(rows))
    monkeypatch.setattr(trust, "_PROVED", {})


@pytest.mark.parametrize(
    ("name", "layout"), [("qwen3", "llama"), ("gemma2", "gemma2"), ("olmo3", "olmo2"), ("qwen3_moe", "mixtral")]
)
def test_a_family_without_a_row_is_recognised_and_proved_once(monkeypatch, name, layout):
    model = replica_of_config(AutoConfig.for_model(name))
    listed = Anatomy.of(model)
    slices = listed.slices("L1.H3")
    unlist(monkeypatch, name)
    weights = {n: p.clone() for n, p in model.named_parameters()}
    state = torch.get_rng_state()
    found = Anatomy.of(model)
    assert found.layout == layout
    assert found.slices("L1.H3") == slices
    assert dataclasses.replace(found, layout="") == listed
    assert Anatomy.from_dict(found.to_dict()) == found
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    monkeypatch.setattr("guided_ft.proofs.prove", lambda base: pytest.fail("it was proved before"))
    assert Anatomy.of(model) == found


def test_what_was_proved_of_one_config_is_not_believed_of_another(monkeypatch):
    """Sizes do not matter to a proof; which kinds of layers there are does."""
    asked, prove = [], trust.prove
    monkeypatch.setattr(trust, "prove", lambda base: asked.append(base) or prove(base))
    unlist(monkeypatch, "qwen3")
    window = {"use_sliding_window": True, "sliding_window": 4}
    plain, sliding = ["full_attention"] * 2, ["sliding_attention", "full_attention"]
    more = {"num_hidden_layers": 3, "layer_types": [*sliding, "sliding_attention"], "intermediate_size": 64}
    for settings, expected in (
        ({"layer_types": plain}, 1),
        ({"layer_types": plain, "intermediate_size": 64}, 1),
        ({"layer_types": sliding}, 2),
        (more, 2),
        ({"layer_types": plain, "num_kv_shared_layers": 0}, 3),
        ({"layer_types": plain, "num_kv_shared_layers": 1}, 4),
    ):
        config = AutoConfig.for_model("qwen3", **families.FAMILIES["qwen3"] | window | settings)
        Anatomy.of(AutoModelForCausalLM.from_config(config))
        assert len(asked) == expected, settings


def test_a_proof_prints_what_it_found():
    proof = Anatomy.prove(families.make("llama"))
    lines = str(proof).splitlines()
    assert lines[0].startswith("llama (layout llama): proved on a tiny random copy, ")
    assert [line.split()[:2] for line in lines[1:]] == [["ok", f.name] for f in proof.findings]


def test_a_wrapper_that_hides_its_layers_is_refused_by_name():
    with pytest.raises(GuidedError, match=r"^opt: its OPTForCausalLM has no 'layers' "):
        Anatomy.prove(AutoConfig.for_model("blip-2"))


def test_a_row_that_does_not_fit_the_config_is_refused():
    model = families.make("llama")
    model.config.num_attention_heads = 3
    with pytest.raises(GuidedError, match=r"^llama: the layout 'llama' does not fit this config: 3 heads in "):
        Anatomy.of(model)


def test_a_layer_that_the_tiny_copy_lacks_is_found_out():
    model = families.make("llama", layers=3)
    model.model.layers[2].extra = nn.Linear(2, 2)
    proof = Anatomy.prove(model)
    assert failed(proof) == {"kinds"}
