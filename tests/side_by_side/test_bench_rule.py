"""The default rate against those of the sweeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bench_rows import results, row
from families import make

from benchmarks.side_by_side.arms.rule import rule
from benchmarks.side_by_side.suites import smollm2, testbed
from benchmarks.side_by_side.units import around
from benchmarks.side_by_side.units.report import write_report
from guided_ft.anatomy import Anatomy
from guided_ft.pipeline.training import learning_rate
from guided_ft.plan.plan import Plan
from guided_ft.recipe.recipe import Recipe
from guided_ft.scorers.methods.random import random
from guided_ft.selection.budget import select

pytest.importorskip("matplotlib")


def test_the_default_rate_is_the_plans():
    anatomy = Anatomy.of(make("llama"))
    wider = 576 / anatomy.hidden_size
    plan = Plan(select(random(None, anatomy), "40%", kinds=("head", "neuron")))
    share = 100 * plan.num_parameters / anatomy.num_parameters
    for arm in ("guided:two-sided", "random", "shuffled"):
        assert rule("smollm2", "sums", arm, share) * wider == pytest.approx(plan.learning_rate)
    for change, arm in (
        ({"rank": 1}, "guided:rank"),
        ({"mode": "lora"}, "lora"),
        ({"mode": "freeze"}, "guided:freeze"),
    ):
        other = replace(plan, **change)
        share = 100 * other.num_parameters / anatomy.num_parameters
        assert rule("smollm2", "sums", arm, share) * wider == pytest.approx(other.learning_rate)
    assert [rule("smollm2", "sums", arm, 0.3) for arm in ("full", "dora", "lora:qv", "lisa", "base")] == [None] * 5
    narrow = 576 / testbed.SIZES["testbed"]["hidden"] * rule("smollm2", "sums", "random", 0.3)
    assert rule("testbed", "later", "random", 0.3) == pytest.approx(narrow)


def test_the_default_rate_of_pairs_is_a_recipes(monkeypatch):
    monkeypatch.setattr(smollm2, "_sets", lambda: None)
    plan = Plan(select(random(None, Anatomy.of(make("llama"))), "40%", kinds=("head", "neuron")))
    recipe = Recipe.load("dpo_sums", ["train.learning_rate=auto"])
    paces = {False: 1.0, True: learning_rate(recipe, plan) / plan.learning_rate}
    assert paces[True] < 1
    for task, problem in smollm2.suite().problems.items():
        expected = paces[problem.is_preference] * rule("smollm2", "sums", "random", 0.3)
        assert rule("smollm2", task, "random", 0.3) == pytest.approx(expected)


def test_sweeps_in_which_the_default_rate_is_good_enough_are_counted(tmp_path):
    rows = [row(phase="sweep", lr=lr, validation=v, score=v) for lr, v in ((1e-3, 10), (5e-3, 90))]  # no arm of ours
    for budget, here, best in ((0.1, 80, 82), (0.3, 80, 82.5)):
        for lr, score in ((1e-3, 10), (rule("testbed", "later", "random", budget), here), (9e-2, best)):
            at = {"phase": "sweep", "arm": "random", "budget": budget, "fraction": budget, "lr": lr}
            rows.append(row(**at, validation=score, score=score))
    # Its budget is its own: what counts is what it trained.
    for lr, score in ((1e-4, 10), (rule("testbed", "later", "guided:freeze", 8.0), 70), (9e-3, 73)):
        at = {"phase": "sweep", "arm": "guided:freeze", "fraction": 8.0, "lr": lr}
        rows.append(row(**at, validation=score, score=score))
    page = write_report(results(tmp_path / "results", rows), tmp_path)[0].read_text()
    assert "best rate of the sweep in 1 of 3 sweeps; at worst it loses 3." in page


def test_what_half_and_twice_the_default_rate_would_have_done(tmp_path):
    def rule(suite, task, arm, trained):
        return None if arm == "full" else 2e-3

    def swept(task, arm, *ends):
        return [
            row(phase="sweep", task=task, arm=arm, budget=0.3, lr=lr, validation=score, score=score, forgetting=nats)
            for lr, (score, nats) in zip((1e-3, 4e-3, 16e-3), ends, strict=True)
        ]

    rows = [
        *swept("a", "guided", (60, 0.1), (80, 0.3), (20, 1.0)),
        *swept("b", "guided:two-sided", (70, 0.2), (71, 0.4), (10, 1.0)),
        *swept("c", "guided:late", (90, 0.0), (50, None), (10, None)),
        # A rank, a reference, an arm of others, and a sweep that ends below twice the rate.
        *swept("a", "guided:rank", (1, 0.0), (2, 0.0), (3, 0.0)),
        *swept("a", "random", (1, 0.0), (2, 0.0), (3, 0.0)),
        *swept("a", "full", (1, 0.0), (2, 0.0), (3, 0.0)),
        *[each for each in swept("d", "guided", (1, 0.0), (2, 0.0), (3, 0.0)) if each["lr"] < 4e-3],
    ]
    _, _, line = around.table(rows, rule).splitlines()
    assert line.split(" | ") == [
        *("| slices, located", "3"),
        # 20, 1 and 0 points; 10, 0.5 and 20; 0, 0 and 40
        *("+7.0", "+10.2", "+13.3"),
        *("2", "1", "2"),
        *("+0.1000", "+0.3000", "+0.4000 |"),
    ]
    assert around.table(rows[3:], rule) == "", "two sweeps are too few"
