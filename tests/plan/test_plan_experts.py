"""Plans, files, exports and trainers on mixtures of experts."""

from __future__ import annotations

import json
import math

import families
import moe
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from refusing import refuses
from safetensors.torch import load_file, save_file
from slicing import base_tensors, same, slice_layers
from tiny_run import recipe
from trainers import base, dpo, sft

from guided_ft import GuidedCallback, Plan, Selection, Task, run
from guided_ft.anatomy import Anatomy
from guided_ft.callback.certify import canonical, fingerprint
from guided_ft.errors import GuidedError
from guided_ft.plan.attaching import trainable_names
from guided_ft.report.figures import histogram
from guided_ft.scorers.methods.random import random
from guided_ft.selection.budget import select
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.slice import SliceConfig

EXPERTS = "model.layers.0.mlp.experts"
_MIXTRAL = Anatomy.of(families.make("mixtral"))


def plan_of(model, mode: str, text: str, **options) -> Plan:
    return Plan(Selection.parse(text, Anatomy.of(model)), mode, **options)


# -- modes -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["slice", "freeze"])
@pytest.mark.parametrize("kind", moe.SELECTIONS)
def test_attach_trains_exactly_the_plan(moe_family, kind, mode):
    model = families.make(moe_family)
    before = families.logits(model)
    plan = plan_of(model, mode, moe.SELECTIONS[kind])
    attached = plan.attach(model)
    assert trainable_names(attached) == plan.expected_trainable
    assert sum(p.numel() for p in attached.parameters() if p.requires_grad) == plan.num_parameters
    assert plan.is_attached(attached)
    assert torch.equal(families.logits(attached), before)
    if mode == "slice" and kind != "layer":
        assert plan.num_parameters == plan.selection.num_parameters


@pytest.mark.parametrize("mode", ["slice", "freeze"])
def test_only_the_plan_moves(moe_family, mode):
    model = families.make(moe_family)
    plan = plan_of(model, mode, moe.SELECTIONS["both"])
    attached = plan.attach(model)
    trained = {canonical(name) for name in plan.expected_trainable}
    before = fingerprint(attached, skip=trained)
    assert any("mlp.gate" in name or "mlp.router" in name for name in before), "the router is not watched"
    start = families.logits(attached)
    optimizer = torch.optim.AdamW([p for p in attached.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for seed in range(3):
        ids = families.tokens(seed=seed)
        attached(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert fingerprint(attached, skip=trained) == before
    assert not torch.equal(families.logits(attached), start)


def test_lora_adapts_heads(moe_family):
    model = families.make(moe_family)
    before = families.logits(model)
    plan = plan_of(model, "lora", "L0.H1 L1.H2 L1.H3")
    attached = plan.attach(model)
    assert trainable_names(attached) == plan.expected_trainable
    assert sum(p.numel() for p in attached.parameters() if p.requires_grad) == plan.num_parameters
    assert torch.equal(families.logits(attached), before)


@pytest.mark.parametrize(("text", "named"), [("L0.H1 L0.E1.N2", "L0.E1.N2"), ("L1", "L1")])
def test_lora_refuses_experts_by_name(text, named):
    with refuses(
        f"lora: {named} is made of experts, which are no linear layers (use mode 'slice' or 'freeze', or choose heads only)"
    ):
        plan_of(families.make("mixtral"), "lora", text)


def test_a_rank_for_expert_neurons_is_refused():
    model = families.make("mixtral")
    line = "rank: expert neurons are trained in full only (leave rank out, or choose heads)"
    with refuses(line):
        plan_of(model, "slice", "L0.H1 L0.E1.N2", rank=2)
    with refuses(line):
        SliceConfig(slices={EXPERTS: {"neurons": {0: [1]}}}, rank=2)
    assert plan_of(model, "slice", "L0.H1", rank=2).num_parameters == 2 * (2 * (8 + 32))


@settings(max_examples=60, deadline=None)
@given(budgets=st.tuples(st.floats(0.01, 0.9), st.floats(0.01, 0.9)), seed=st.integers(0, 99))
def test_budgets_are_never_exceeded_and_nested(budgets, seed):
    small, large = (
        select(random(None, _MIXTRAL, seed=seed), b, kinds=("head", "neuron", "layer")) for b in sorted(budgets)
    )
    assert small <= large
    for selection, budget in ((small, min(budgets)), (large, max(budgets))):
        assert 0 < selection.num_parameters <= budget * _MIXTRAL.num_parameters
        assert Plan(selection).num_parameters <= selection.num_parameters


def test_whole_layers_of_neurons_for_freeze():
    selection = select(random(None, _MIXTRAL), "20%", kinds=("neuron",), whole=True)
    assert selection.per_layer("neuron") in ([24, 0], [0, 24])
    assert Plan(selection, "freeze").num_parameters == selection.num_parameters


# -- the configuration -------------------------------------------------------------------------------------------------
def test_the_configuration_is_explicit_readable_and_stable():
    one = SliceConfig(slices={EXPERTS: {"neurons": {10: [3, 1, 2], 2: "0-4"}}}).slices
    assert one == {EXPERTS: {"neurons": {"2": "0-4", "10": "1-3"}}}
    assert SliceConfig(slices=json.loads(json.dumps(one))).slices == one


@pytest.mark.parametrize(
    "neurons",
    [None, {}, [], {"x": "1"}, {-1: "1"}, {"1.5": [1]}, {1: None}, {1: [0.5]}, {1: "1", "1": "2"}, {"9999999": "1"}],
    ids=str,
)
def test_neurons_that_cannot_be_read_are_refused(neurons):
    with refuses(f"slices.{EXPERTS}: expected {{'neurons': {{expert: ranges}}}}, got {neurons!r}"):
        SliceConfig(slices={EXPERTS: {"neurons": neurons}})


@pytest.mark.parametrize(
    ("module", "spec", "message"),
    [
        (EXPERTS, {"neurons": {3: [0]}}, f"{EXPERTS}: slice: there is no expert 3 (0 to 2)"),
        (EXPERTS, {"neurons": {2: [0, 8]}}, f"{EXPERTS}: slice: expert 2 has no neuron 8 (0 to 7)"),
        (
            EXPERTS,
            {"axis": 0, "index": [1]},
            f"{EXPERTS}: slice: cannot train rows of a MixtralExperts (only of linear layers; experts take "
            "{'neurons': {expert: index}})",
        ),
        (
            "model.layers.0.self_attn.q_proj",
            {"neurons": {0: [0]}},
            "model.layers.0.self_attn.q_proj: slice: cannot train expert neurons of a Linear (only of gated experts with "
            "a gate_up_proj and a down_proj of three dimensions)",
        ),
        (
            "model.layers.0.mlp.gate",
            {"axis": 0, "index": [1]},
            "model.layers.0.mlp.gate: slice: cannot train rows of a MixtralTopKRouter (only of linear layers; experts "
            "take {'neurons': {expert: index}})",
        ),
    ],
    ids=str,
)
def test_what_the_module_lacks_is_refused_and_the_model_stays_as_it_was(module, spec, message):
    model = families.make("mixtral")
    with refuses(message):
        get_peft_model(
            model, SliceConfig(slices={"model.layers.0.self_attn.o_proj": {"axis": 0, "index": "1"}, module: spec})
        )
    assert not slice_layers(model)


def test_random_neurons_repeat_with_the_seed(moe_family, tmp_path):
    def drawn(**options) -> PeftModel:
        config = SliceConfig(target_modules=["experts", "o_proj"], fraction=0.25, init_weights=False, **options)
        return get_peft_model(families.make(moe_family), config)

    one, again, other = (drawn(seed=s).peft_config["default"].slices for s in (3, 3, 4))
    assert one == again != other
    assert set(one) == {f"model.layers.{i}.{m}" for i in (0, 1) for m in ("mlp.experts", "self_attn.o_proj")}
    peft_model = drawn(seed=3)
    assert slice_layers(peft_model)[EXPERTS].slice_delta["default"].index.numel() == 6
    peft_model.save_pretrained(tmp_path)
    expected = families.logits(peft_model)
    again = PeftModel.from_pretrained(families.make(moe_family), tmp_path)
    assert torch.equal(families.logits(again), expected)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "damage", "said"),
    [
        ("up", None, "up is missing, not (2, 2, 32)"),
        ("down", lambda t: t * float("nan"), "down holds impossible values"),
        ("down", lambda t: t[:1].clone(), "down has shape (1, 32), not (2, 32)"),
        ("index", lambda t: t.flip(0), "index holds impossible values"),
        ("index", lambda t: t * 0, "index holds impossible values"),
        ("index", lambda t: t - 10, "index holds impossible values"),
        ("index", lambda t: t + 20, "index holds impossible values"),
        ("index", lambda t: t.float(), "index holds impossible values"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, kind, damage, said):
    moe.attach(families.make("mixtral"), "L0.E0.N3 L0.E1.N2", changed=True).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    old = tensors.pop(f"base_model.model.{EXPERTS}.slice_delta.{kind}")
    if damage:
        tensors[f"base_model.model.{EXPERTS}.slice_delta.{kind}"] = damage(old)
    save_file(tensors, path)
    with pytest.raises(GuidedError) as error:
        PeftModel.from_pretrained(families.make("mixtral"), tmp_path)
    assert said in str(error.value)


def test_neurons_that_changed_hands_after_saving_the_configuration_come_back(tmp_path):
    """The index lives in the tensors: here expert 0 gave its place to another neuron of expert 1."""
    moe.attach(families.make("mixtral"), "L0.E0.N3 L0.E1.N2", changed=True).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    prefix = f"base_model.model.{EXPERTS}.slice_delta"
    tensors[f"{prefix}.index"] = torch.tensor([9, 10])
    save_file(tensors, path)
    expected = moe.attach(families.make("mixtral"), "L0.E1.N1 L0.E1.N2")
    delta = slice_layers(expected)[EXPERTS].slice_delta["default"]
    delta.up.data, delta.down.data = tensors[f"{prefix}.up"], tensors[f"{prefix}.down"]
    again = PeftModel.from_pretrained(families.make("mixtral"), tmp_path)
    assert torch.equal(families.logits(again), families.logits(expected))


# -- what experts cannot do ----------------------------------------------------------------------------------------------


def test_the_report_marks_the_chosen_neuron():
    scores = ScoreMap(_MIXTRAL, neuron=np.arange(1, 49).reshape(2, 24))
    figure = histogram(scores, Selection.parse("L0.E2.N1", _MIXTRAL))
    [chosen] = [bars for bars in figure.data if bars["name"] == "chosen"]
    [at] = np.flatnonzero(chosen["y"])
    # Neuron 1 of expert 2 is the 18th of the layer.
    assert abs(chosen["x"][at] - math.log10(18)) <= chosen["width"] / 2 + 1e-6


# -- trainers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_sft_with_one_added_argument(moe_family, checkpointing, tmp_path):
    model = base(tmp_path, moe_family)
    before, start = base_tensors(model), families.logits(model)
    task = Task.from_dataset(tiny.sums(8), tiny.tokenizer())
    callback = GuidedCallback(task=task, method="attribution", budget="20%", mode="slice", kinds=("head", "neuron"))
    trainer = sft(model, tmp_path / "run", [callback], gradient_checkpointing=checkpointing)
    trainer.train()
    assert callback.certificate.ok
    assert callback.certificate.total > 20
    assert {c.kind for c in callback.plan.selection} == {"head", "neuron"}
    assert same(base_tensors(model), before)
    model.eval()
    trained = families.logits(model)
    assert (trained - start).abs().max() > 1e-2
    trainer.save_model(str(tmp_path / "adapter"))
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", attn_implementation="eager")
    assert (families.logits(again) - trained).abs().max() <= 1e-6

    resumed = base(tmp_path, moe_family)
    second = sft(resumed, tmp_path / "run", [GuidedCallback(callback.plan)], gradient_checkpointing=checkpointing)
    second.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert torch.equal(families.logits(resumed.eval()), trained)


def test_dpo_starts_from_the_base(tmp_path):
    """ln 2 is the loss of equal policies; TRL would add its loss for balanced experts."""
    model = base(tmp_path, "gpt_oss")
    callback = GuidedCallback(plan_of(model, "slice", moe.SELECTIONS["both"]))
    trainer = dpo(model, tmp_path / "run", [callback], router_aux_loss_coef=0.0)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(losses[-1] - math.log(2)) > 1e-3
    assert callback.certificate.ok


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_a_run_from_recipe_to_report(name, tmp_path):
    result = run(recipe(tmp_path, family=name, train={"mode": "slice", "trainer": "sft"}))
    assert all(check["ok"] for check in result["checks"])
    assert result["reload"]["max_difference"] == 0
    selection = Selection.load(tmp_path / "run" / "selection.json")
    assert {c.expert for c in selection if c.kind == "neuron"} == {0, 1, 2}
    assert result["trainable"] == selection.num_parameters <= 0.15 * result["total"]
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
