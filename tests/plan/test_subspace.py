"""The mode ``subspace``: a LoRA whose ``A`` is given and stays; what other modes obey as well is tested with them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from drawn import drawn, subspace
from families import logits, make
from peft import LoraConfig, PeftModel, get_peft_model
from quantized import load

from guided_ft import Plan, Selection
from guided_ft.anatomy import Anatomy, stored_weight
from guided_ft.errors import GuidedError
from guided_ft.plan.attaching import trainable_names
from guided_ft.selection.spend import select_directions

PARTS = "L0.H1 L1.H2 L1.H3 L1.N5"


def plan_of(model, within: str = PARTS) -> Plan:
    return Plan(subspace(Anatomy.of(model), within), "subspace")


def bases_of(model, plan) -> dict[str, torch.Tensor]:
    return {
        name: model.get_submodule(f"base_model.model.{name}").lora_A["default"].weight.detach().clone()
        for name in plan.selection.bases
    }


def train(model, steps: int = 3, **options) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    torch.manual_seed(0)
    for _ in range(steps):
        ids = torch.randint(3, 99, (2, 9))
        model(input_ids=ids, labels=ids, **options).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_the_gradient_is_the_full_one_projected(family):
    """By the chain rule dL/dB = (dL/dW) A^T, and nothing else has a gradient."""
    model = make(family)
    anatomy, twin, ids = Anatomy.of(model), copy.deepcopy(model), torch.randint(3, 99, (3, 9))
    plan = plan_of(model)
    weights = [stored_weight(twin, name) for name in plan.selection.bases]
    full = torch.autograd.grad(twin(input_ids=ids, labels=ids).loss, weights)
    attached = plan.attach(model)
    attached(input_ids=ids, labels=ids).loss.backward()
    for (name, basis), gradient in zip(plan.selection.bases.items(), full, strict=True):
        layer = attached.get_submodule(f"base_model.model.{name}")
        assert torch.equal(layer.lora_A["default"].weight, torch.from_numpy(basis))
        wanted = (gradient.T if anatomy.family.transposed else gradient) @ torch.from_numpy(basis).T
        torch.testing.assert_close(layer.lora_B["default"].weight.grad, wanted, rtol=1e-4, atol=1e-6)
    assert {n for n, p in attached.named_parameters() if p.grad is not None} == plan.expected_trainable


def test_directions_stay_and_the_rest_too(family):
    attached = (plan := plan_of(model := make(family))).attach(model)
    fixed = {n: p.detach().clone() for n, p in attached.named_parameters() if n not in plan.expected_trainable}
    start = logits(attached)
    train(attached)
    for _ in range(2):
        # As in every step of DPO.
        with attached.disable_adapter():
            assert torch.equal(logits(attached), start)
        assert trainable_names(attached) == plan.expected_trainable
        train(attached)
    assert all(torch.equal(p, fixed[n]) for n, p in attached.named_parameters() if n in fixed)
    assert not torch.equal(logits(attached), start)


def test_merging_and_taking_apart_again(family):
    attached = plan_of(model := make(family)).attach(model)
    train(attached)
    trained = logits(attached)
    merged = copy.deepcopy(attached).merge_and_unload()
    torch.testing.assert_close(logits(merged), trained, rtol=1e-5, atol=1e-5)


def test_other_programs_load_it_without_this_package(tmp_path):
    model = make("phi3")
    model.save_pretrained(tmp_path / "base")
    attached = plan_of(model).attach(model)
    train(attached)
    attached.save_pretrained(tmp_path / "adapter")
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert said["peft_type"] == "LORA"
    ids = torch.arange(3, 12)[None]
    torch.save({"logits": attached.eval()(ids).logits}, tmp_path / "expected.pt")
    code = f"""
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained({str(tmp_path / "base")!r}, attn_implementation="eager")
model = PeftModel.from_pretrained(base, {str(tmp_path / "adapter")!r}).eval()
expected = torch.load({str(tmp_path / "expected.pt")!r})["logits"]
assert torch.equal(model(torch.arange(3, 12)[None]).logits, expected)
assert not any(name.startswith("guided_ft") for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_model_carries_a_plan_only_with_its_directions():
    model = make("llama")
    anatomy = Anatomy.of(model)
    located = subspace(anatomy, PARTS)
    ranks = {name: np.roll(basis, 1, axis=1) for name, basis in located.bases.items()}
    other = type(located)(anatomy, ranks)
    attached = Plan(located, "subspace").attach(model)
    assert Plan(located, "subspace").is_attached(attached)
    assert not Plan(other, "subspace").is_attached(attached)
    assert Plan(located, "subspace").hash != Plan(other, "subspace").hash


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_holds_the_directions_as_it_holds_weights(dtype):
    model = make("llama", dtype)
    plan = plan_of(model)
    attached = plan.attach(model)
    assert plan.is_attached(attached)
    for name, weight in bases_of(attached, plan).items():
        assert torch.equal(weight.to(dtype), torch.from_numpy(plan.selection.bases[name]).to(dtype))


def test_a_model_that_is_rounded_as_a_whole_trains_along_the_exact_directions():
    model = make("llama")
    plan = plan_of(model)
    attached = plan.attach(model).to(torch.bfloat16)
    assert plan.is_attached(attached)
    plan.full_precision(attached)
    for name, weight in bases_of(attached, plan).items():
        assert torch.equal(weight, torch.from_numpy(plan.selection.bases[name]))
    train(attached)
    assert plan.is_attached(attached)


def test_an_adapter_that_was_saved_trains_on_as_before(tmp_path):
    model = make("llama")
    plan = plan_of(model)
    plan.attach(model).save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(make("llama"), tmp_path, is_trainable=True)
    assert not plan.is_attached(again)
    plan.way.take_up(plan.selection, again)
    assert plan.is_attached(again)
    with again.disable_adapter():
        pass
    assert trainable_names(again) == plan.expected_trainable
    other = make("llama")
    anatomy = Anatomy.of(other)
    loaded = PeftModel.from_pretrained(other, tmp_path, is_trainable=True)
    before = trainable_names(loaded)
    another = subspace(anatomy, PARTS, seed=7)
    Plan(another, "subspace").way.take_up(another, loaded)
    assert trainable_names(loaded) == before


def test_servers_are_told_the_largest_rank():
    plan = Plan(select_directions(drawn(Anatomy.of(make("llama"))), 700), "subspace")
    config, ranks = plan.peft_config(), plan.selection.ranks
    assert config.r == config.lora_alpha == max(ranks.values()) > min(ranks.values())
    assert config.rank_pattern == config.alpha_pattern == {n: r for n, r in ranks.items() if r < config.r}


def test_quantized_bases_train_along_directions(tmp_path):
    model = load("llama", "nf4", tmp_path)
    plan = plan_of(model)
    attached = plan.attach(model)
    before = bases_of(attached, plan)
    train(attached)
    assert all(torch.equal(before[name], weight) for name, weight in bases_of(attached, plan).items())
    assert plan.is_attached(attached)


def test_nothing_of_an_input_is_kept_for_the_backward_pass_but_its_part_along_the_directions():
    model = make("llama")
    name = Anatomy.of(model).module(1, "mlp.down_proj")
    chosen = select_directions(drawn(Anatomy.of(model), count=2, names=(name,)), 64)
    attached = Plan(chosen, "subspace").attach(model)
    layer = attached.get_submodule(f"base_model.model.{name}")
    x = torch.randn(3, 5, 48)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        layer(x)
    assert not [shape for shape in saved if shape[-1] == 48 and len(shape) == 3]
    assert [shape for shape in saved if shape[-1] == 2 and np.prod(shape) == 30]


def test_the_reference_of_a_second_training_has_the_directions_too():
    """TRL copies a trained adapter to one called ``ref``."""
    model = make("llama")
    plan = plan_of(model)
    attached = plan.attach(model)
    attached.add_adapter("ref", attached.peft_config["default"])
    assert trainable_names(attached) == plan.expected_trainable


def test_a_rate_by_width():
    plan = plan_of(make("llama"))
    share = plan.num_parameters / plan.selection.anatomy.num_parameters
    assert plan.learning_rate == pytest.approx(2e-3 * min(1, (0.03 / share) ** 0.5) * 576 / 32)


def test_what_a_mode_does_not_train_is_refused():
    model = make("llama")
    anatomy = Anatomy.of(model)
    with pytest.raises(GuidedError, match="mode 'slice' trains a Selection, but it was given Subspace"):
        Plan(subspace(anatomy, PARTS), "slice")
    with pytest.raises(GuidedError, match="mode 'subspace' trains a Subspace, but it was given Selection"):
        Plan(Selection.parse("L0.H1", anatomy), "subspace")
    with pytest.raises(GuidedError, match="rank: 3 with mode 'subspace'"):
        Plan(subspace(anatomy, PARTS), "subspace", rank=3)
    stock = get_peft_model(make("llama"), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    assert isinstance(stock, PeftModel)
    assert not Plan(subspace(anatomy, PARTS), "subspace").is_attached(stock)
