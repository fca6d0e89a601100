"""The cost model counts what torch counts, operation by operation, and gives the known speed-ups."""

from __future__ import annotations

import math
from dataclasses import replace

import families
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from guided_ft.anatomy import Anatomy
from guided_ft.estimate.flops import Batch, prefix_bytes, step_flops
from guided_ft.estimate.footprint import on_meta
from guided_ft.estimate.ways import ways
from guided_ft.plan.modes import Work
from guided_ft.plan.modes.freeze import whole_layers
from guided_ft.plan.plan import Plan
from guided_ft.selection.selection import Selection

LAYERS, BATCH = 4, Batch(2, 20)
CHOICES = {
    "neurons": "L1.N1 L1.N2 L3.N4",
    "neurons and heads": "L2.N* L3.H0 L3.H1 L3.H2 L3.H3",
    "heads": "L2.H0 L2.H1 L3.N4",
    "a lone head": "L1.H1 L3.N4",
    "a layer": "L2",
}
# The model takes these as a little dearer than they are, all of them in the first trained layer only.
LOOSE = {
    # Attention and MLP read the same input, and count as if one came after the other.
    ("gpt_neox", "heads"),
    ("gpt_neox", "a lone head"),
    ("gpt_neox", "a layer"),
    ("gpt_neox", "lora"),
    ("gpt_neox", "subspace"),
    # No norm comes before the attention.
    ("olmo2", "a layer"),
}
GROUPED = [name for name, groups in families.GROUPS.items() if groups < families.HEADS and name != "phi3"]
# A lone head of a group trains no keys and values, and these need no gradient then.
LOOSE |= {(name, "a lone head") for name in GROUPED}


# Experts that each have as many chosen neurons as the others: it does not matter then where the tokens go.
EXPERT_CHOICES = {
    "neurons": "L1.E*.N1 L1.E*.N6 L3.E*.N4",
    "neurons and heads": "L2.E*.N* L3.H0 L3.H1 L3.H2 L3.H3",
    "neurons above heads": "L2.H0 L2.H1 L2.E*.N3 L3.E*.N4",
    "a layer": "L2",
}
ACTIVE = 2


def counted(model: torch.nn.Module) -> int:
    """What torch counts in a forward and backward pass."""
    ids = families.tokens(BATCH.rows, BATCH.length)
    counter = FlopCounterMode(display=False)
    with counter:
        model(input_ids=ids, labels=ids).loss.backward()
    return counter.get_total_flops()


def modelled(model: torch.nn.Module, anatomy: Anatomy, work: Work, **options) -> int:
    head = model.get_output_embeddings().weight.numel()
    return step_flops(anatomy, head, work, BATCH, **options)


def eager(name: str) -> torch.nn.Module:
    """A mixture of experts whose products torch can count."""
    model = families.make(name, layers=LAYERS)
    model.set_experts_implementation("eager")
    assert model.config.num_experts_per_tok == ACTIVE < families.EXPERTS
    return model


def check(family: str, choice: str, found: int, expected: int) -> None:
    slack = 0.1 if (family, choice) in LOOSE else 0
    assert expected <= found <= (1 + slack) * expected


@pytest.mark.parametrize("key", ["full", "lora", "subspace"])
def test_what_trains_in_all_layers_costs_what_torch_counts(family, key):
    model = families.make(family, layers=LAYERS)
    anatomy = Anatomy.of(model)
    arm = next(arm for arm in ways(anatomy, 10_000, rank=3) if arm.key == key)
    model, work = arm.attach(model.requires_grad_(False)), arm.work()
    found, expected = modelled(model, anatomy, work), counted(model)
    check(family, key, found, expected)


@pytest.mark.parametrize("mode", ["slice", "freeze"])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_plan_costs_what_torch_counts(family, choice, mode):
    model = families.make(family, layers=LAYERS)
    anatomy = Anatomy.of(model)
    plan = Plan(Selection.parse(CHOICES[choice], anatomy), mode)
    model, work = plan.attach(model), plan.way.work(plan.selection)
    found, expected = modelled(model, anatomy, work), counted(model)
    check(family, choice, found, expected)


@pytest.mark.parametrize("key", ["full", "lora", "subspace"])
def test_experts_cost_what_torch_counts(moe_family, key):
    model = eager(moe_family)
    anatomy = Anatomy.of(model)
    arm = next(arm for arm in ways(anatomy, 10_000, rank=3) if arm.key == key)
    model, work = arm.attach(model.requires_grad_(False)), arm.work()
    found, expected = modelled(model, anatomy, work, active=ACTIVE), counted(model)
    assert found == expected


@pytest.mark.parametrize("mode", ["slice", "freeze"])
@pytest.mark.parametrize("choice", EXPERT_CHOICES)
def test_a_plan_for_experts_costs_what_torch_counts(moe_family, choice, mode):
    model = eager(moe_family)
    anatomy = Anatomy.of(model)
    plan = Plan(Selection.parse(EXPERT_CHOICES[choice], anatomy), mode)
    model, work = plan.attach(model), plan.way.work(plan.selection)
    found, expected = modelled(model, anatomy, work, active=ACTIVE), counted(model)
    assert found == expected


def test_experts_that_get_no_token_cost_nothing():
    model = eager("mixtral")
    anatomy = Anatomy.of(model)
    work = replace(whole_layers(anatomy, range(LAYERS)), embedding=True, head=True)
    few, all_of_them = (modelled(model, anatomy, work, active=n) for n in (1, families.EXPERTS))
    weights = sum(math.prod(shape) for name, shape in anatomy.shapes.items() if anatomy.family.of_experts(name))
    assert all_of_them - few == 6 * BATCH.tokens * LAYERS * weights * (families.EXPERTS - 1) // families.EXPERTS
    assert all_of_them == modelled(model, anatomy, work)


def test_what_a_cache_saves_is_the_forward_pass_below():
    model = families.make("llama", layers=LAYERS)
    anatomy = Anatomy.of(model)
    plan = Plan(Selection.parse("L2.N3", anatomy))
    model, work = plan.attach(model), plan.way.work(plan.selection)
    below = FlopCounterMode(display=False)
    with below, torch.no_grad():
        ids = families.tokens(BATCH.rows, BATCH.length)
        families.make("llama", layers=2).get_decoder()(input_ids=ids)
    saved = modelled(model, anatomy, work) - modelled(model, anatomy, work, cached=True)
    assert saved == below.get_total_flops()


def test_checkpointing_costs_a_second_forward_pass():
    model = families.make("llama", layers=LAYERS).train()
    anatomy = Anatomy.of(model)
    plan = Plan(Selection.parse("L2.N3 L3.H1", anatomy))
    model, work = plan.attach(model), plan.way.work(plan.selection)
    plain, expected = modelled(model, anatomy, work), counted(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.get_base_model().disable_input_require_grads()  # which would carry gradients below the first trained layer
    again = counted(model)
    assert plain == expected
    # torch stops recomputing when it has what the backward pass of a layer needs.
    assert 0.9 < (modelled(model, anatomy, work, checkpointing=True) - plain) / (again - expected) <= 1.2


def test_logits_only_where_labels_are():
    anatomy = Anatomy.of(families.make("llama"))
    parts = Work(added={(0, "mlp.up_proj"): (32,)})
    costs = [step_flops(anatomy, 1000, parts, Batch(2, 10, share)) for share in (1.0, 0.25)]
    assert costs[0] - costs[1] == 2 * 2 * 15 * 1000
    assert Batch(2, 10, 1e-9).labels == 1


@pytest.mark.parametrize(
    ("layers", "parts", "speed_up", "cached"),
    [
        # A 135M llama, attention scores and the adapters' own products left out: shares of three passes over all weights.
        (range(20, 30), 1.0, 1.73, 2.48),
        (range(20, 30), 0.03, 2.02, 3.14),
        (range(15, 30), 0.05, 1.85, 2.44),
        (range(10), 1.0, 1.33, 1.33),
    ],
)
def test_published_speed_ups_of_a_small_llama(layers, parts, speed_up, cached):
    anatomy = _anatomy(30, 576, 1536, 9, 3, 49152)
    head = 49152 * 576
    weights = {(i, n): math.prod(s) for i in range(30) for n, s in anatomy.shapes.items()}
    batch = Batch(1, 1)
    full = step_flops(anatomy, head, Work(weights, embedding=True, head=True), batch)
    assert full == pytest.approx(6 * anatomy.num_parameters, rel=1e-3)
    # Trained in place, from the lowest layer's norm on.
    trained = Work({k: round(parts * n) for k, n in weights.items() if k[0] in layers}, other=frozenset(layers))
    assert full / step_flops(anatomy, head, trained, batch) == pytest.approx(speed_up, abs=0.01)
    assert full / step_flops(anatomy, head, trained, batch, cached=True) == pytest.approx(cached, abs=0.01)


def test_a_prefix_cache_holds_hidden_states():
    assert prefix_bytes(576, 4, 128) == 1000 * 128 * 576 * 4


def _anatomy(layers: int, hidden: int, ff: int, heads: int, groups: int, vocabulary: int) -> Anatomy:
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": ff, "vocab_size": vocabulary}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": groups, "tie_word_embeddings": True}
    with on_meta(AutoConfig.for_model("llama", **sizes), torch.float32) as model:
        return Anatomy.of(model)
