"""The benchmark runs, measures what it says, and continues where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections import Counter
from pathlib import Path

import pytest
import tiny
from bench_lab import cell, lab_of

from benchmarks.side_by_side.arms.arms import ARMS
from benchmarks.side_by_side.arms.labels import PLACED
from benchmarks.side_by_side.rows.rows import check_row
from benchmarks.side_by_side.training.ready import ready
from benchmarks.side_by_side.training.setup import Trial
from benchmarks.side_by_side.training.trial import run_cell
from guided_ft.engine.labelled import labelled_only


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A tiny random model that is asked for sums and pairs."""
    return lab_of("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def ungrouped(tmp_path_factory):
    """The same with keys and values of its own for each head, so that all heads cost alike."""
    return lab_of("opt", tmp_path_factory.mktemp("ungrouped"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_base_is_in_memory_before_the_first_run_is_measured(lab):
    mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    files = [
        tuple(int(end, 16) for end in words[0].split("-")) for words in mapped if words[-1].endswith(".safetensors")
    ]
    places = [p.data_ptr() for p in lab._base.parameters()]
    assert places
    assert not [place for place in places for low, high in files if low <= place < high]


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_gives_a_complete_row(lab, arm):
    budget = {"guided:lora": 20.0}.get(arm, 5.0)
    row = run_cell(lab, cell(arm, lr=0.0 if arm == "base" else 1e-2, budget=budget, phase="main"))
    check_row(row, arm, new=True)
    assert all(row[name] == value for name, value in ARMS[arm].way.about().items())
    assert math.isfinite(row["forgetting"])
    assert row["kl"] >= -1e-6
    points = [p["step"] for p in row["curve"]]
    assert points == ([0] if arm == "base" else [0, 1, 2, 3, 4])
    assert (row["trainable"] > 0) == (row["adapter_bytes"] > 0) == (arm != "base")
    if arm == "base":
        assert row["forgetting"] == row["kl"] == 0
    else:
        assert abs(row["forgetting"]) > 1e-6, "nothing was trained"


def test_a_row_tells_the_truth(lab):
    """Against the same training by hand, with torch alone."""
    row = run_cell(lab, cell("full", phase="main"))
    again = run_cell(lab, cell("full", phase="main"))
    for name in ("score", "validation", "forgetting", "kl"):
        assert row[name] == again[name]
    assert row["trainable"] == sum(p.numel() for p in lab.model().parameters())
    assert row["adapter_bytes"] == 4 * row["trainable"]
    assert (row["old_skills"], row["base_old_skills"]) == (25.0, 25.0)
    assert row["seconds"] >= 4 * row["step_seconds"] / 2
    assert row["localize_seconds"] == 0


def test_what_must_be_kept_of_a_run_is_what_moved(lab):
    row, full = run_cell(lab, cell("hft")), run_cell(lab, cell("full"))
    assert 0.3 * full["trainable"] < row["trainable"] < 0.9 * full["trainable"]
    assert row["fraction"] == pytest.approx(100 * row["trainable"] / full["trainable"])
    assert row["adapter_bytes"] == 4 * row["trainable"]


def test_what_spares_our_arms_work_is_given_to_the_others(lab, monkeypatch):
    given = []

    def spy(model, anatomy=None):
        given.append(anatomy is not None)
        return labelled_only(model, anatomy)

    monkeypatch.setattr("benchmarks.side_by_side.training.trial.labelled_only", spy)
    for arm in ("full", "lora"):
        run_cell(lab, cell(arm))
    assert given == [True, True], "the last layer is trimmed to the labelled tokens, too"


@pytest.mark.parametrize(("phase", "points"), [("sweep", []), ("main", [0, 1, 2, 3, 4])])
def test_only_a_main_run_is_looked_at_on_its_way(lab, phase, points):
    row = run_cell(lab, cell("full", phase=phase))
    check_row(row, phase)
    assert [point["step"] for point in row["curve"]] == points


def test_a_diverged_run_is_a_row_too(lab):
    row = run_cell(lab, cell("full", lr=1e8))
    check_row(row, "row")
    assert row["forgetting"] is None
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_pairs_are_scored_by_preference(lab):
    row = run_cell(lab, cell("guided:two-sided", task="pairs"))
    assert 0 <= row["score"] <= 100
    assert row["localize_seconds"] > 0
    assert row["seconds"] > row["localize_seconds"]


def test_draws_differ_and_budgets_are_kept(lab):
    rows = [run_cell(lab, cell("random", draw=draw)) for draw in (0, 1)]
    assert rows[0]["forgetting"] != rows[1]["forgetting"]
    assert all(0 < r["fraction"] <= 5.0 for r in rows)


@pytest.mark.parametrize(("budget", "whole"), [(1.0, False), (1.4, False), (2.0, True), (12.0, True)])
def test_low_ranks_spend_the_budget_and_no_more(lab, budget, whole):
    model = lab.model()
    plan = ready(
        ARMS["random:rank"].way, Trial(lab, cell("random:rank", budget=budget), model, tiny.sums(12))
    ).guided.plan
    total = sum(p.numel() for p in model.parameters())
    assert 0.4 * budget / 100 * total < plan.num_parameters <= budget / 100 * total
    assert dataclasses.replace(plan, rank=plan.rank + 1).num_parameters > budget / 100 * total
    # A fifth of the model is chosen wherever the budget buys a rank for it.
    assert (plan.selection.num_parameters > 0.19 * total) == whole
    assert whole or plan.rank == 1


@pytest.mark.parametrize("arm", PLACED)
def test_a_placed_control_chooses_other_parts_from_the_same_place(lab, ungrouped, arm):
    lab = ungrouped if PLACED[arm].startswith("shuffled") else lab

    def chosen(name):
        setup = ready(ARMS[name].way, Trial(lab, cell(name, budget=10.0), lab.model(), tiny.sums(40)))
        return setup.guided.plan.selection.components

    located, control = chosen(arm), chosen(PLACED[arm])
    assert set(located) != set(control)
    assert {c.kind for c in located} == {c.kind for c in control}
    if PLACED[arm].startswith("shuffled"):
        assert Counter((c.kind, c.layer) for c in located) == Counter((c.kind, c.layer) for c in control)
    else:
        assert min(c.layer for c in control) == min(c.layer for c in located)


@pytest.mark.parametrize(
    ("arm", "kinds", "examples", "texts"),
    [
        ("guided", ("neuron",), 32, 16),
        ("guided:heads", ("head", "neuron"), 32, 16),
        ("guided:attribution-late", ("head", "neuron"), 8, 32),
    ],
)
def test_the_default_of_slices_locates_as_its_recipe_does(lab, arm, kinds, examples, texts):
    lab.maps.clear()
    setup = ready(ARMS[arm].way, Trial(lab, cell(arm), lab.model(), tiny.sums(40)))
    [(scores, _)] = lab.maps.values()
    assert scores.kinds == kinds
    assert {c.kind for c in setup.guided.plan.selection.components} <= set(kinds)
    assert (scores.meta["task"]["examples"], scores.meta["retain"]["examples"]) == (examples, texts)


def test_wrong_task_reads_the_other_problem(lab):
    trial = Trial(lab, cell("wrong-task"), lab.model(), tiny.sums(8))
    assert trial.task("pairs").is_preference
    assert not trial.task().is_preference
    assert len(trial.task()) == 8
