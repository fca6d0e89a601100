"""Which runs of the benchmark are due, in which order, and what its tasks are made of."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.side_by_side.arms import arms as bench_arms
from benchmarks.side_by_side.suites import skills
from benchmarks.side_by_side.suites.cell import SWEEP_SEED, Campaign, Cell, due
from benchmarks.side_by_side.training.run import parse_only
from guided_ft import GuidedError


@dataclass
class FakeArm:
    rates: dict[str, tuple[float, ...]] | None
    budgeted: bool = True
    drawn: bool = False


RATES = {"testbed": (1.0, 2.0, 4.0)}
ARMS = {"full": FakeArm(RATES, budgeted=False), "random": FakeArm(RATES, drawn=True)}
CAMPAIGN = Campaign(("sort",), ("full", "random"), budgets=(0.1, 1.0), sizes=(50,), seeds=(1, 2), draws=3, steps=7)


def cells(rows, refused=()):
    return list(due("testbed", "tiny", [CAMPAIGN], ARMS, rows, refused))


def row(cell, validation=0.0, forgetting=0.0):
    return cell.to_dict() | {"validation": validation, "forgetting": forgetting, "score": 0.0}


def test_first_every_rate_on_the_sweeps_seed():
    found = cells([])
    assert {c.phase for c in found} == {"sweep"}
    assert {c.seed for c in found} == {SWEEP_SEED}
    assert [(c.arm, c.budget, c.lr) for c in found] == [
        *[("full", None, lr) for lr in RATES["testbed"]],
        *[("random", 0.1, lr) for lr in RATES["testbed"]],
        *[("random", 1.0, lr) for lr in RATES["testbed"]],
    ]


def test_then_the_best_rate_on_other_seeds_and_draws():
    sweep = [c for c in cells([]) if c.arm == "random" and c.budget == 0.1]
    rows = [row(c, validation={1.0: 10, 2.0: 30, 4.0: 30}[c.lr], forgetting=c.lr) for c in sweep]
    main = [c for c in cells(rows) if c.phase == "main"]
    # 2 and 4 tie in validation; 2 forgot less.
    assert [(c.lr, c.seed, c.draw) for c in main] == [(2.0, s, d) for s in (1, 2) for d in range(3)]
    assert SWEEP_SEED not in {c.seed for c in main}


def test_a_diverged_run_is_the_worst_of_equals():
    sweep = [c for c in cells([]) if c.arm == "full"]
    rows = [row(c, forgetting={1.0: None, 2.0: 5.0, 4.0: None}[c.lr]) for c in sweep]
    assert {c.lr for c in cells(rows) if c.phase == "main"} == {2.0}


def swept(validation):
    """Run what is due for ``full`` until its main runs are; return the rates of the sweep and the one that is best."""
    rows = []
    while True:
        waiting = [c for c in cells(rows) if c.arm == "full"]
        if waiting[0].phase == "main":
            return [r["lr"] for r in rows], {c.lr for c in waiting}
        rows.append(row(waiting[0], validation=validation(waiting[0].lr)))


@pytest.mark.parametrize(
    ("validation", "rates", "best"),
    [
        ({2.0: 9}, [1.0, 2.0, 4.0], 2.0),
        ({4.0: 9}, [1.0, 2.0, 4.0, 10.0], 4.0),
        ({4.0: 8, 10.0: 9}, [1.0, 2.0, 4.0, 10.0, 30.0], 10.0),
        ({4.0: 7, 10.0: 8, 30.0: 9}, [1.0, 2.0, 4.0, 10.0, 30.0], 30.0),
        ({1.0: 8, 0.3: 9}, [1.0, 2.0, 4.0, 0.3, 0.1], 0.3),
        # Nothing learned at any rate: no edge is better than its neighbour.
        ({}, [1.0, 2.0, 4.0], 1.0),
        ({2.0: 9, 4.0: 9}, [1.0, 2.0, 4.0], 2.0),
    ],
)
def test_a_sweep_goes_on_past_an_edge_that_is_best(validation, rates, best):
    assert swept(lambda rate: validation.get(rate, 0)) == (rates, {best})


def test_nothing_is_best_before_its_sweep_is_complete():
    rows = [row(c) for c in cells([])[:2]]
    assert all(c.phase == "sweep" for c in cells(rows))


def test_a_run_is_due_once_whatever_is_done():
    rows = []
    for _ in range(100):
        found = cells(rows)
        assert len(set(found)) == len(found)
        assert not {Cell.of(r) for r in rows} & set(found)
        if not found:
            break
        rows.append(row(found[0]))
    # full: 3 rates, 2 seeds; random at two budgets: 3 rates, 2 seeds x 3 draws each.
    assert len(rows) == (3 + 2) + 2 * (3 + 6)


def test_what_is_refused_is_not_due():
    found = cells([])
    assert cells([], refused=found[:3]) == found[3:]


def test_an_arm_without_a_sweep_takes_what_a_recipe_takes():
    campaign = Campaign(("sums", "sum_pairs"), ("guided:auto", "random:auto"), (0.3,), seeds=(1, 2), draws=2, steps=7)
    found = list(due("smollm2", "tiny", [campaign], bench_arms.ARMS, []))
    rates = {"sums": 0.0033, "sum_pairs": 0.00066}  # of README, and a fifth of it
    assert {(c.task, c.arm, c.phase, c.lr) for c in found} == {
        (task, arm, "main", rate) for task, rate in rates.items() for arm in campaign.arms
    }
    # Two seeds, and two draws of what is drawn.
    assert len(found) == 2 * (2 + 4)
    assert SWEEP_SEED not in {c.seed for c in found}
    assert not list(due("smollm2", "tiny", [campaign], bench_arms.ARMS, [row(c) for c in found]))


def test_quick_sweeps_fewer_rates():
    short = Campaign(("sort",), ("full",), sizes=(50,), rates=1)
    assert [c.lr for c in due("testbed", "tiny", [short], ARMS, [])] == [1.0]


def test_only():
    assert parse_only(["arm=full,lora", "seed=1", "arm=random"]) == {"arm": {"full", "lora", "random"}, "seed": {"1"}}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("arn=full", "bench: unknown value 'arn' .*arm"),
        ("full", "'full': not FIELD=VALUE"),
        ("arm=", "'arm=': not FIELD=VALUE"),
    ],
)
def test_only_refuses(word, message):
    with pytest.raises(GuidedError, match=message):
        parse_only([word])


# -- skills -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("skill", [*skills.OLD, *skills.NEW])
def test_rows_repeat_and_differ(skill):
    rows = skills.rows(skill, 30, seed=3)
    assert rows == skills.rows(skill, 30, seed=3)
    assert rows != skills.rows(skill, 30, seed=4)
    assert len({r["prompt"] for r in rows}) == 30
    assert all(r["prompt"].endswith("=") and r["completion"] for r in rows)


@given(st.sampled_from(sorted(set(skills.NEW) - set(skills.REMEMBERED))), st.integers(1, 200), st.integers(0, 50))
def test_no_test_row_is_trained_on_and_the_test_never_changes(skill, count, seed):
    train, validation, test = skills.split(skill, count, 20, seed)
    prompts = [{r["prompt"] for r in part} for part in (train, validation, test)]
    assert len(train) == count
    assert sum(map(len, prompts)) == len(set().union(*prompts))
    assert skills.split(skill, count + 13, 20, seed)[1:] == (validation, test)
    assert skills.split(skill, count + 13, 20, seed)[0][:count] == train


def test_facts_are_asked_as_they_were_trained_and_in_two_halves():
    train, validation, test = skills.split("new_fact", 100, 30, 0)
    for part in (validation, test):
        assert len(part) == 30
        assert all(r in train for r in part)
    assert not {r["prompt"] for r in validation} & {r["prompt"] for r in test}


ANSWERS = {
    "smallest": min,
    "largest": max,
    "later": lambda word: "".join(chr((ord(c) - ord("a") + 2) % 26 + ord("a")) for c in word),
    "capitals": str.upper,
    "next_upper": lambda word: "".join(chr((ord(c) - ord("a") + 1) % 26 + ord("A")) for c in word),
    "reverse": lambda word: "".join(reversed(word)),
    "next": lambda word: "".join(chr((ord(c) - ord("a") + 1) % 26 + ord("a")) for c in word),
}


@pytest.mark.parametrize("skill", ANSWERS)
def test_answers_are_right(skill):
    for r in skills.rows(skill, 50, 0):
        assert r["completion"] == ANSWERS[skill](r["prompt"].split()[1].removesuffix("="))


def test_answers_of_sums_are_right():
    for r in skills.rows("add", 50, 0):
        assert int(r["completion"]) == sum(map(int, r["prompt"].removesuffix("=").split("+")))


def test_a_person_is_the_same_in_text_and_facts():
    rng = random.Random(0)
    told = " ".join(skills.text(rng) for _ in range(3000))
    known = {r["prompt"]: r["completion"] for r in skills.rows("fact", 200, 0)}
    checked = 0
    for prompt, answer in known.items():
        what, name = prompt.removesuffix("=").split(" of ")
        sentence = {"job": f"{name} is a {answer} from", "town": f" from {answer} with", "pet": f"with a {answer}."}[
            what
        ]
        if f"{name} is a" in told:
            about = told.split(f"{name} is a", 1)[1].split(".")[0] + "."
            assert sentence in f"{name} is a{about}"
            checked += 1
    assert checked > 100
