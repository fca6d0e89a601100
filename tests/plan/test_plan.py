"""Plan: the three modes train exactly what they say, within the budget, for every family."""

from __future__ import annotations

import copy
import re
import types

import pytest
import torch
from drawn import subspace
from families import logits, make
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model

from guided_ft.anatomy import Anatomy, Component
from guided_ft.callback.certify import canonical, fingerprint
from guided_ft.errors import GuidedError
from guided_ft.pipeline.training import learning_rate
from guided_ft.plan.attaching import trainable_names
from guided_ft.plan.modes import MODES, make_mode
from guided_ft.plan.modes.lora import LoraMode
from guided_ft.plan.plan import Plan
from guided_ft.recipe.recipe import Recipe
from guided_ft.scorers.methods.random import random
from guided_ft.selection.budget import select
from guided_ft.selection.selection import Selection

CHOICES = {"layer": "L1", "head": "L0.H1 L1.H2 L1.H3", "neuron": "L0.N3 L0.N4 L1.N40"}


def plan_of(model, mode: str, kind: str = "head", **options) -> Plan:
    anatomy = Anatomy.of(model)
    chosen = subspace(anatomy, CHOICES[kind]) if mode == "subspace" else Selection.parse(CHOICES[kind], anatomy)
    return Plan(chosen, mode, **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", tuple(CHOICES))
def test_attach_trains_exactly_the_plan(family, kind, mode):
    model = make(family)
    before = logits(model)
    plan = plan_of(model, mode, kind)
    attached = plan.attach(model)
    assert trainable_names(attached) == plan.expected_trainable
    assert sum(p.numel() for p in attached.parameters() if p.requires_grad) == plan.num_parameters
    assert plan.is_attached(attached)
    assert torch.equal(logits(attached), before)


@pytest.mark.parametrize("mode", MODES)
def test_the_object_itself_can_become_the_trained_model(family, mode):
    model, twin = make(family), make(family)
    plan = plan_of(model, mode)
    torch.manual_seed(0)
    plan.attach_in_place(model)
    torch.manual_seed(0)
    expected = plan.attach(twin)
    assert type(model) is type(expected)
    assert list(model.state_dict()) == list(expected.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), expected.state_dict().values(), strict=True)
    )
    assert trainable_names(model) == plan.expected_trainable
    assert torch.equal(logits(model), logits(expected))


@pytest.mark.parametrize("mode", MODES)
def test_only_the_plan_moves(family, mode):
    model = make(family)
    plan = plan_of(model, mode)
    attached = plan.attach(model)
    trained = {canonical(name) for name in plan.expected_trainable}
    before = fingerprint(attached, skip=trained)
    optimizer = torch.optim.AdamW([p for p in attached.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    start = logits(attached)
    for _ in range(3):
        ids = torch.randint(3, 99, (2, 9))
        attached(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert fingerprint(attached, skip=trained) == before
    assert not torch.equal(logits(attached), start)


def test_slices_of_a_layer_and_its_own_parts_do_not_clash():
    model = make("llama")
    plan = Plan(Selection.parse("L1 L1.H0 L1.N5 L0.N2", Anatomy.of(model)))
    attached = plan.attach(model)
    assert sum(p.numel() for p in attached.parameters() if p.requires_grad) == plan.num_parameters


@pytest.mark.parametrize("mode", MODES)
def test_save_and_load_are_identity(tmp_path, mode):
    plan = plan_of(make("gpt2"), mode, lr_scale=2.0, **({"rank": 3} if MODES[mode].takes_rank() else {}))
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert (again, again.hash, again.expected_trainable) == (plan, plan.hash, plan.expected_trainable)


@settings(max_examples=60, deadline=None)
@given(budget=st.floats(0.02, 0.9), seed=st.integers(0, 99))
def test_lora_spends_at_most_what_the_selection_has(budget, seed):
    anatomy = _ANATOMY
    selection = select(random(None, anatomy, seed=seed), budget, kinds=("head", "neuron"))
    plan = Plan(selection, "lora")
    try:
        ranks = plan.way.ranks(plan.selection)
    except GuidedError:
        return
    assert plan.num_parameters <= selection.num_parameters <= budget * anatomy.num_parameters
    assert set(ranks) <= {part.module for part in selection.slices()}


def test_lora_ranks_follow_the_scores():
    anatomy = Anatomy.of(make("llama"))
    chosen = tuple(Component.parse(t) for t in ("L0.N1", "L1.N1"))
    selection = Selection(anatomy, chosen, scores={chosen[0]: 1.0, chosen[1]: 9.0})
    ranks = LoraMode(5).ranks(selection)
    per_layer = [sum(r for m, r in ranks.items() if f"layers.{i}." in m) for i in (0, 1)]
    assert sum(ranks.values()) == 5 * 6
    assert per_layer[1] > 5 * per_layer[0]


def test_lora_targets_exactly_its_modules_however_many():
    model = make("llama", layers=8)
    anatomy = Anatomy.of(model)
    plan = Plan(select(random(None, anatomy), 0.5, kinds=("head", "neuron")), "lora", rank=2)
    attached = plan.attach(model)
    assert len(plan.way.ranks(plan.selection)) > 20  # from here on PEFT rewrites the list of targets
    assert set(attached.targeted_module_names) == set(plan.way.ranks(plan.selection))
    for module, rank in plan.way.ranks(plan.selection).items():
        assert attached.get_base_model().get_submodule(module).r["default"] == rank


def test_lora_needs_no_guided_ft_to_load(tmp_path):
    model = make("phi3")
    model.save_pretrained(tmp_path / "base")
    attached = plan_of(model, "lora").attach(model)
    for p in attached.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    attached.save_pretrained(tmp_path / "adapter")
    assert "guided" not in (tmp_path / "adapter" / "adapter_config.json").read_text()


def test_random_slices_are_a_configuration():
    from guided_ft.slice import SliceConfig

    one, two = (get_peft_model(make("llama"), SliceConfig(target_modules=["up_proj"], fraction=0.1)) for _ in range(2))
    assert one.peft_config["default"].slices == two.peft_config["default"].slices
    assert trainable_names(one)


def test_a_plan_does_not_change_the_model_it_copies():
    model = make("llama")
    keys = list(copy.copy(model).state_dict())
    plan_of(model, "freeze").attach(model)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("mode", ["slice", "lora"])
def test_a_forward_that_was_put_on_the_object_follows_into_the_adapter(mode):
    """TRL before 1.16 replaces ``forward`` by a method of the object, which calls the former one."""
    model = make("llama")
    ids = torch.tensor([[1, 2, 3]])
    expected = model(input_ids=ids).logits
    former, calls = model.forward, []

    def counted(self, *args, **kwargs):
        calls.append(self)
        return former(*args, **kwargs)

    model.forward = types.MethodType(counted, model)
    plan_of(model, mode).attach_in_place(model)
    assert torch.equal(model(input_ids=ids).logits, expected)
    assert calls == [model.get_base_model()]


def test_the_less_trains_the_larger_the_rate_and_whole_weights_take_the_smallest():
    anatomy = Anatomy.of(make("llama"))
    wider = 576 / anatomy.hidden_size
    some, more = (select(random(None, anatomy), budget, kinds=("head", "neuron")) for budget in ("10%", "40%"))
    for mode, most, power in (("slice", 0.03, 0.5), ("lora", 0.01, 0.5), ("freeze", 0.01, 1)):
        plan = Plan(more, mode)
        share = plan.num_parameters / anatomy.num_parameters
        assert plan.learning_rate == pytest.approx(wider * 3.3e-3 * (most / share) ** power)
        assert plan.learning_rate < Plan(some, mode).learning_rate
    for mode in MODES:
        rate = 2e-3 if mode == "subspace" else 3.3e-3
        assert make_mode(mode).rate(0.0006) == make_mode(mode).rate(0.01) == rate
    assert make_mode("slice").rate(0.0001) == pytest.approx(5 * 3.3e-3)
    assert make_mode("slice", 1).rate(0.01) == pytest.approx(9.9e-3)
    assert make_mode("lora", 8).rate(0.01) == 3.3e-3


def test_a_recipe_takes_the_plans_rate_unless_it_has_its_own():
    plan = plan_of(make("llama"), "slice")
    rates = [
        learning_rate(Recipe(data={"name": "chain_sum", "preference": trainer == "dpo"}, train=train), plan)
        for trainer in ("sft", "dpo")
        for train in ({"trainer": trainer}, {"trainer": trainer, "learning_rate": 0.5})
    ]
    assert rates == [plan.learning_rate, 0.5, pytest.approx(plan.learning_rate / 5), 0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "slcie"}, "mode: unknown value 'slcie' (did you mean 'slice'?)"),
        ({"mode": "freeze", "rank": 4}, "rank: 4 with mode 'freeze' (modes 'slice' and 'lora' take one, from 1)"),
        ({"mode": "slice", "rank": 0}, "rank: 0 with mode 'slice'"),
        ({"mode": "lora", "rank": 0}, "rank: 0 with mode 'lora'"),
        ({"lr_scale": 0.0}, "lr_scale: 0.0 is not above 0"),
    ],
)
def test_impossible_plans_are_refused(options, message):
    with pytest.raises(GuidedError) as error:
        plan_of(make("llama"), **{"mode": "slice", **options})
    assert message in str(error.value)


@pytest.mark.parametrize("change", [{"mode": "lora"}, {"rank": 1}, {"lr_scale": 2.0}, {"kind": "neuron"}])
def test_the_hash_knows_all_that_a_plan_says(change):
    model = make("llama")
    assert plan_of(model, **{"mode": "slice"} | change).hash != plan_of(model, "slice").hash


def test_an_empty_selection_is_refused():
    with pytest.raises(GuidedError, match="the selection is empty"):
        Plan(Selection(Anatomy.of(make("llama")), ()))


def test_a_lora_that_buys_no_rank_is_refused():
    # A neuron of GPT-2 holds 2 x 32 numbers; a rank of its modules takes 32 + 48.
    one = Selection.parse("L0.N1", Anatomy.of(make("gpt2")))
    with pytest.raises(GuidedError, match=r"64 parameters buy no rank \(the first module takes 80;"):
        Plan(one, "lora").peft_config()
    assert sum(LoraMode().ranks(Selection.parse("L0.N1 L0.N2", one.anatomy)).values()) == 1


def test_another_model_is_refused():
    said = "made for another model (there the model is a llama, here the model is a gpt2)"
    for mode in ("freeze", "slice"):
        with pytest.raises(GuidedError, match=re.escape(said)):
            plan_of(make("llama"), mode).attach(make("gpt2"))


_ANATOMY = Anatomy.of(make("llama"))


@pytest.mark.parametrize("change", [{"lr_scale": "L9"}, {"lr_scale": 10**400}, {"rank": [1]}, {"options": 3}])
def test_a_damaged_plan_is_one_line(change):
    with pytest.raises(GuidedError):
        Plan.from_dict(plan_of(make("llama"), "slice").to_dict() | change)
