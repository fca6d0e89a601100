"""Law 5: budgets are never exceeded, nested and deterministic; controls are like what they control."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_scores import ANATOMY, TOTAL, bought, counts, kind_sets, maps, score_map

from guided_ft.anatomy import KINDS, Component
from guided_ft.errors import GuidedError
from guided_ft.selection.budget import parse_budget, select, share_of
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.selection.selection import Selection
from guided_ft.selection.strategies import STRATEGIES

MANY = settings(max_examples=300, deadline=None)
SOME = settings(max_examples=100, deadline=None)
strategies = st.sampled_from(sorted(STRATEGIES))


def refuses(message: str):
    return pytest.raises(GuidedError, match=f"^{re.escape(message)}$")


# -- law 5 -------------------------------------------------------------------------------------------------------------
@MANY
@given(maps, counts, kind_sets, strategies, st.integers(0, 99), st.booleans())
def test_budget_is_never_exceeded(scores, budget, kinds, strategy, seed, whole):
    chosen = bought(scores, budget, kinds, strategy, seed=seed, whole=whole)
    assert chosen.num_parameters == ANATOMY.cost(chosen) <= budget
    assert {c.kind for c in chosen} <= set(kinds)


@pytest.mark.parametrize(
    ("budget", "share"),
    [("3%", 0.03), ("0.5 %", 0.005), (0.25, 0.25), ("0.25", 0.25), (1.0, 1.0), (1, None), ("4_000", None), (4e6, None)],
)
def test_shares_are_told_from_counts(budget, share):
    assert share_of(budget) == (None if share is None else pytest.approx(share))


@MANY
@given(maps, counts, counts, kind_sets, strategies, st.booleans())
def test_a_larger_budget_only_adds(scores, one, other, kinds, strategy, whole):
    small, large = (bought(scores, b, kinds, strategy, whole=whole) for b in sorted((one, other)))
    assert small <= large


@SOME
@given(maps, counts, kind_sets, strategies, st.integers(0, 99))
def test_same_question_same_answer(scores, budget, kinds, strategy, seed):
    first = bought(scores, budget, kinds, strategy, seed=seed)
    twin = ScoreMap(ANATOMY, layer=scores.layer, head=scores.head, neuron=scores.neuron)
    second = bought(twin, budget, list(reversed(kinds)), strategy, seed=seed)
    assert first == second
    assert first.text == second.text


@SOME
@given(maps, counts, kind_sets, st.sampled_from(["top", "bottom"]), st.data())
def test_only_the_order_of_scores_within_a_kind_counts(scores, budget, kinds, strategy, data):
    monotone = [lambda x: 7 * x + 300, lambda x: x**3, lambda x: np.exp(x / 100), np.arctan]
    warped = {kind: data.draw(st.sampled_from(monotone))(scores.of(kind).astype(np.float64)) for kind in KINDS}
    assert bought(ScoreMap(ANATOMY, **warped), budget, kinds, strategy) == bought(scores, budget, kinds, strategy)


@MANY
@given(maps, counts, kind_sets, st.booleans())
def test_top_is_the_longest_affordable_prefix(scores, budget, kinds, descending):
    """Against a plain reading of the rule that recounts the whole cost at every step."""
    sign = 1 if descending else -1
    queue = []
    for kind in kinds:
        ranked = sorted(ANATOMY.components(kind), key=lambda c: (-sign * scores.score(c), c))
        queue += [((i + 0.5) / len(ranked), KINDS.index(kind), i, c) for i, c in enumerate(ranked)]
    expected: list[Component] = []
    for *_, component in sorted(queue):
        if ANATOMY.cost([*expected, component]) > budget:
            break
        expected.append(component)
    chosen = bought(scores, budget, kinds, "top" if descending else "bottom")
    assert chosen == Selection(ANATOMY, tuple(expected))


def test_ties_go_by_name():
    flat = ScoreMap(ANATOMY, head=np.ones((2, 4)), neuron=np.ones((2, 48)))
    assert select(flat, 3 * 96, "neuron").text == "L0.N0 L0.N1 L0.N2"
    assert select(flat, 2 * 512 + 512, "head").text == "L0.H0 L0.H1"
    assert select(flat, 3 * 96, "neuron", "bottom").text == "L0.N0 L0.N1 L0.N2"


def test_one_parameter_less_than_the_last_one_costs_does_not_buy_it():
    flat = ScoreMap(ANATOMY, head=np.ones((2, 4)), neuron=np.ones((2, 48)))
    assert len(select(flat, 3 * 96, "neuron")) == 3
    assert len(select(flat, 3 * 96 - 1, "neuron")) == 2
    assert len(select(flat, 2 * 512 + 512 - 1, "head")) == 1


def test_a_second_head_that_completes_a_group_must_pay_for_its_keys_and_values():
    flat = ScoreMap(ANATOMY, head=np.ones((2, 4)))
    assert select(flat, 2 * 512, "head").text == "L0.H0"


def test_kinds_compete_by_quantile_not_by_scale():
    scores = ScoreMap(ANATOMY, head=np.arange(8.0).reshape(2, 4) * 1e-6, neuron=np.arange(96.0).reshape(2, 48) * 1e6)
    counted = select(scores, "50%", kinds=("head", "neuron")).counts()
    assert counted["head"] == pytest.approx(counted["neuron"] / 12, abs=1.1)


# -- controls ----------------------------------------------------------------------------------------------------------
@SOME
@given(maps, st.integers(96, TOTAL), st.integers(0, 99))
def test_random_has_the_make_up_of_top(scores, budget, seed):
    top = select(scores, budget, "neuron")
    control = select(scores, budget, "neuron", "random", seed=seed)
    assert len(control) == len(top)
    assert control.num_parameters == top.num_parameters


@SOME
@given(maps, st.integers(96, TOTAL), st.integers(0, 99))
def test_shuffled_keeps_the_layers_of_top(scores, budget, seed):
    top = select(scores, budget, "neuron")
    assert select(scores, budget, "neuron", "shuffled", seed=seed).per_layer("neuron") == top.per_layer("neuron")


@pytest.mark.parametrize("strategy", ["random", "shuffled"])
def test_seeds_repeat_and_differ(strategy):
    scores = score_map(0, 1000)
    drawn = [select(scores, "10%", strategy=strategy, seed=seed, kinds=("head", "neuron")) for seed in range(20)]
    assert drawn == [
        select(scores, "10%", strategy=strategy, seed=seed, kinds=("head", "neuron")) for seed in range(20)
    ]
    assert len({selection.text for selection in drawn}) == 20


def test_random_ignores_the_scores_and_top_does_not():
    one, other = score_map(0, 1000), score_map(1, 1000)
    assert select(one, "10%", strategy="random", kinds=("head", "neuron")) == select(
        other, "10%", strategy="random", kinds=("head", "neuron")
    )
    assert select(one, "10%", kinds=("head", "neuron")) != select(other, "10%", kinds=("head", "neuron"))


@SOME
@given(maps, counts, st.lists(st.sampled_from(["head", "neuron"]), min_size=1, unique=True), strategies)
def test_whole_takes_all_of_a_layer_or_nothing(scores, budget, kinds, strategy):
    chosen = bought(scores, budget, kinds, strategy, whole=True)
    for kind in kinds:
        assert set(chosen.per_layer(kind)) <= {0, ANATOMY.size(kind)}


def test_whole_goes_by_the_mean_score():
    head = np.array([[9.0, 0, 0, 0], [3, 3, 3, 3]])
    assert select(ScoreMap(ANATOMY, head=head), 3072, "head", whole=True).text == "L1.H0 L1.H1 L1.H2 L1.H3"


def test_how_and_scores_are_recorded():
    scores = ScoreMap(ANATOMY, neuron=np.arange(96.0).reshape(2, 48), meta={"method": "by-hand"})
    chosen = select(scores, "1%", ["neuron"], seed=3)
    assert chosen.how == {
        "method": "by-hand",
        "strategy": "top",
        "budget": "1%",
        "budget_parameters": TOTAL // 100,
        "kinds": ["neuron"],
        "seed": 3,
        "whole": False,
        "first_layer": 0,
    }
    assert chosen.scores == {Component("neuron", 1, 46): 94.0, Component("neuron", 1, 47): 95.0}


# -- budgets and messages ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("2%", 20_000),
        (" 2 % ", 20_000),
        ("0.5%", 5_000),
        ("100%", 1_000_000),
        (0.02, 20_000),
        ("0.02", 20_000),
        (1.0, 1_000_000),
        (1, 1),
        ("1", 1),
        (100_000, 100_000),
        ("100_000", 100_000),
        ("1e5", 100_000),
        (1_000_000, 1_000_000),
        (2.0, 2),
        ("0.00001%", 0),
    ],
)
def test_budget_forms(budget, expected):
    assert parse_budget(budget, 1_000_000) == expected


@pytest.mark.parametrize("budget", ["", "two", "2%%", "%", None, "1,000", True, [2]])
def test_unreadable_budgets(budget):
    with refuses(f"budget: cannot read {budget!r} (write '2%', 0.02 or a number of parameters)"):
        parse_budget(budget, 1_000_000)


@pytest.mark.parametrize("budget", [0, -1, "-2%", "101%", 1_000_001, 10**400, "nan", "nan%", "inf", math.nan, -0.5])
def test_impossible_budgets(budget):
    with refuses(f"budget: {budget!r} is not above 0 and at most the whole model (1,000,000 parameters)"):
        parse_budget(budget, 1_000_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ()}, "kinds: empty (choose from layer, head, neuron)"),
        ({"kinds": ("neurons",)}, "kinds: unknown value 'neurons' (did you mean 'neuron'?)"),
        ({"kinds": "expert"}, "kinds: unknown value 'expert' (one of: head, layer, neuron)"),
        ({"strategy": "tpo"}, "strategy: unknown value 'tpo' (did you mean 'top'?)"),
        ({"strategy": "best"}, "strategy: unknown value 'best' (one of: bottom, random, shuffled, top)"),
        ({"kinds": "layer"}, "kinds: this map has no scores for 'layer' (it has: head, neuron)"),
        (
            {"budget": "0.1%", "kinds": "head"},
            f"budget: 0.1% buys nothing: L0.H0 alone costs {512 / TOTAL:.3%} (raise the budget)",
        ),
        (
            {"budget": "1%", "whole": True, "kinds": "neuron"},
            f"budget: 1% buys nothing: L0.N0 to L0.N47 alone costs {48 * 96 / TOTAL:.3%} (raise the budget)",
        ),
        ({"budget": "lots"}, "budget: cannot read 'lots' (write '2%', 0.02 or a number of parameters)"),
    ],
)
def test_every_refusal_says_what_to_do(arguments, message):
    with refuses(message):
        select(ScoreMap(ANATOMY, head=np.zeros((2, 4)), neuron=np.zeros((2, 48))), **arguments)


def test_a_single_kind_may_be_a_word():
    scores = score_map(0, 1000)
    assert select(scores, "5%", "neuron") == select(scores, "5%", ["neuron", "neuron"])


@pytest.mark.parametrize("strategy", ["top", "random", "shuffled", "bottom"])
@pytest.mark.parametrize("whole", [False, True])
def test_layers_below_the_first_are_left_alone(strategy, whole):
    scores = score_map(0, 1000)
    chosen = select(
        scores, "60%" if whole else "5%", strategy=strategy, whole=whole, first_layer=1, kinds=("head", "neuron")
    )
    assert len(chosen)
    assert {c.layer for c in chosen} == set(range(1, ANATOMY.num_layers))


@pytest.mark.parametrize("first", [-1, 2])
def test_a_first_layer_that_is_not_there(first):
    with pytest.raises(GuidedError, match=rf"first_layer: {first}, but this model has layers 0 to 1"):
        select(score_map(0, 1000), "5%", first_layer=first, kinds=("head", "neuron"))
