"""The page, the sheets and the plots: what the rows say, the same bytes each time, nothing from bad rows."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from bench_rows import benchmark, curve, row
from families import make

from benchmarks.side_by_side import around, smollm2, testbed
from benchmarks.side_by_side.arms import ARMS
from benchmarks.side_by_side.compare import CONTROLS, PLACED, REFERENCES, against, located
from benchmarks.side_by_side.goals import GOALS, goals
from benchmarks.side_by_side.groups import ALL_TASKS, Line, group, headline, pooled
from benchmarks.side_by_side.labels import LABELS, colour, label, marker, ordered
from benchmarks.side_by_side.report import write_report
from benchmarks.side_by_side.rule import rule
from benchmarks.side_by_side.same_rate import same_rate
from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError
from guided_ft.pipeline.training import learning_rate
from guided_ft.plan.plan import Plan
from guided_ft.recipe.recipe import Recipe
from guided_ft.scorers.methods.random import random
from guided_ft.selection.budget import select

pytest.importorskip("matplotlib")


def results(folder: Path, rows, suite="testbed") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{suite}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder


def small(task="later", **options):
    arms = ("full", "lora", "guided", "guided:two-sided", "random", "random:late")
    return benchmark(seeds=3, draws=3, budgets=(0.1, 0.3), sizes=(100, 300), arms=arms, task=task, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    rows = [*small("later"), *small("smallest")]
    return rows, write_report(results(folder / "results", rows), folder)


def sheet(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_rows_give_the_same_bytes(made, tmp_path):
    rows, paths = made
    repeated = [rows[0] | {"score": 1.0}, *reversed(rows)]
    again = write_report(results(tmp_path / "results", [*reversed(rows)]), tmp_path)
    assert [path.name for path in again] == [path.name for path in paths]
    for one, other in zip(paths, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    # A run that was made twice counts once, and the page says so.
    page = write_report(results(tmp_path / "results", repeated), tmp_path)[0].read_text()
    assert "1 row replaced by a later one" in page
    assert page.replace("1 row replaced", "0 rows replaced") == paths[0].read_text()


def test_the_page_says_what_hangs_on_the_rate(made):
    _, paths = made
    assert re.search(
        r"What half and twice.*?\n\n\| arms .*\n.*\n\| slices, controls .*\n\| slices, located ",
        paths[0].read_text(),
        re.DOTALL,
    )


def test_the_page_shows_what_was_drawn(made):
    _, (page, lines, comparisons, *plots) = made
    shown = re.findall(r"!\[[^]]*\]\((plots/[^)]+)\)", page.read_text())
    assert [page.parent / name for name in shown] == plots
    assert all(path.read_text().startswith("<?xml") for path in plots)
    assert f"({lines.name})" in page.read_text()
    assert f"({comparisons.name})" in page.read_text()
    assert [p.name for p in plots if "regimes" in p.name] == ["bench_testbed_all-tasks_regimes.svg"]
    for line in page.read_text().splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
            assert "nan" not in line.split()


def test_a_pair_of_arms_is_mapped_for_the_lengths_and_data_sizes_it_was_run_with(tmp_path):
    ran = {("guided:two-sided", size, steps) for size, steps in ((50, 100), (300, 100), (300, 500))}
    ran |= {("random", *rest) for _, *rest in ran} | {("guided:fisher", 300, 100)}
    rows = [
        row(arm=arm, data_size=size, steps=steps, budget=0.3, seed=seed, score=70.0 + seed + len(arm))
        for arm, size, steps in sorted(ran)
        for seed in range(3 if arm == "guided:fisher" else 6)
    ]
    [figure] = [path for path in write_report(results(tmp_path / "results", rows), tmp_path) if "regimes" in path.name]
    words = Counter(re.findall(r"<text[^>]*>([^<]*)</text>", figure.read_text()))
    # Who is compared stands in the first of its rows; the second panel has the rows of the first.
    for line in ("guided, two-sided against random: 50 x 100", "300 x 100", "300 x 500"):
        assert words[line] == 1, line
    assert words["guided, Fisher against random: 300 x 100"] == 1
    differences = {"guided:two-sided": 16 - 6, "guided:fisher": 13 - 6}
    # 2 of 64 relabellings are as far from 0: too many for a family of three. Of three seeds nothing can be said.
    assert words[f"+{differences['guided:two-sided']:.1f}*"] == 3
    assert words[f"(+{differences['guided:fisher']:.1f})"] == 1


def test_what_a_map_does_at_one_rate_is_read_off_the_sweeps(tmp_path):
    rows = []
    for i, task in enumerate(("one", "two", "three", "four", "five", "six")):
        at = {"task": task, "phase": "sweep", "lr": 1e-3, "budget": 0.3}
        gain, more = (9.0, None) if i == 4 else (-1.0, 0.3) if i == 3 else (5.0, 0.11 + i / 100)
        rows.append(row(arm="random", score=50.0, forgetting=0.1, **at))
        # The sixth began at other weights, and the second rate was tried by one of the two.
        weights = "other" if i == 5 else "0123456789abcdef"
        rows.append(row(arm="guided:fisher", score=50.0 + gain, forgetting=more, curve=[], weights=weights, **at))
        rows.append(row(arm="guided:fisher", **at | {"lr": 3e-3}))
    [found] = same_rate(rows)
    assert (found.arm, found.control, found.rate) == ("guided:fisher", "random", 1e-3)
    assert found.scores == (5.0, 5.0, 5.0, -1.0, 9.0)
    assert found.forgetting == pytest.approx((0.01, 0.02, 0.03, 0.2, math.inf))
    page = write_report(results(tmp_path / "results", rows), tmp_path)[0].read_text()
    assert "| guided, Fisher | random | 0.001 | 5 | +4.6 | 4 : 1 | +0.0300 | 5 : 0 |" in page
    fewer = [each for each in rows if each["task"] != "one"]
    assert same_rate(fewer) == []
    assert "at the same learning rate" not in write_report(results(tmp_path / "fewer", fewer), tmp_path)[0].read_text()


def test_a_gentler_choice_of_rates_is_compared_too():
    rows = []
    for task in ("one", "two", "three", "four", "five"):
        # 60 % of 100 examples is uncertain by 4.9 points: at 3e-3 the located arm is as good, and random is not.
        for lr, located_, drawn in ((1e-3, 40, 40), (3e-3, 56, 55), (1e-2, 60, 60), (3e-2, 10, 10)):
            at = {"task": task, "phase": "sweep", "lr": lr, "budget": 0.3, "forgetting": lr}
            rows.append(row(arm="random", validation=drawn, score=drawn, **at))
            rows.append(row(arm="guided:fisher", validation=located_, score=located_ + 1, **at))
    *_, best, gentlest = found = same_rate(rows)
    assert [each.rate for each in found] == [
        1e-3,
        3e-3,
        1e-2,
        3e-2,
        "the best on validation",
        "the lowest within its error",
    ]
    assert (set(best.scores), set(best.forgetting)) == ({1.0}, {0.0})
    assert set(gentlest.scores) == {-3.0}
    assert gentlest.forgetting == pytest.approx([3e-3 - 1e-2] * 5)
    three = [each for each in rows if each["lr"] != 3e-2]
    assert [each.rate for each in same_rate(three)] == [1e-3, 3e-3, 1e-2], "three rates are no sweep to pick from"


def test_the_sheet_holds_the_means(made):
    rows, (_, lines, *_) = made
    mine = [r for r in rows if (r["task"], r["arm"], r["budget"]) == ("later", "random", 0.3)]
    mine = [r for r in mine if (r["data_size"], r["phase"]) == (300, "main")]
    where = {"task": "later", "arm": "random", "budget": "0.3", "data_size": "300"}
    (found,) = [each for each in sheet(lines) if where.items() <= each.items()]
    assert found["runs"] == "9"
    assert found["seeds"] == "3"
    assert float(found["lr"]) == 1e-3
    mean = sum(r["score"] for r in mine) / 9
    assert float(found["score"]) == pytest.approx(mean, rel=1e-5)
    deviation = (sum((r["score"] - mean) ** 2 for r in mine) / 8) ** 0.5
    assert float(found["score_sd"]) == pytest.approx(deviation, rel=1e-5)


# -- known answers ------------------------------------------------------------------------------------------------------
def duel(better: float, seeds=3, draws=3, tasks=("later", "smallest", "new_fact")):
    """Located above random by so many points on every seed."""
    same = {"lr": 1e-3, "budget": 0.3}
    rows = []
    for task in tasks:
        for seed in range(1, seeds + 1):
            level = 50.0 + 5 * seed
            rows.append(row(arm="guided:two-sided", task=task, seed=seed, score=level + better, **same))
            rows += [row(arm="random", task=task, seed=seed, draw=d, score=level + d - 1, **same) for d in range(draws)]
    return rows


@pytest.mark.parametrize(("better", "verdict"), [(10.0, "win"), (-10.0, "loss"), (0.5, "tie")])
def test_verdicts(better, verdict):
    groups = group(duel(better))
    (over_all,) = [e for e in against(pooled(groups), located, CONTROLS) if e.metric.name == "score"]
    assert (over_all.setting.task, over_all.verdict, over_all.seeds, over_all.pairs) == (ALL_TASKS, verdict, 9, 27)
    assert over_all.difference == pytest.approx(better)
    each = [e for e in against(groups, located, CONTROLS) if e.metric.name == "score"]
    assert [e.verdict for e in each] == [verdict] * 3
    assert [e.least for e in each] == pytest.approx([1 / 64] * 3)


def test_too_few_runs_are_no_verdict_and_no_burden():
    """Three seeds and one draw cannot reach p < 0.05, and do not weigh on the correction of what can."""
    few = [each | {"data_size": 50} for each in duel(10.0, draws=1, tasks=("later",))]
    found = against(group([*duel(10.0, tasks=("later",)), *few]), located, CONTROLS)
    score = {e.setting.data_size: e for e in found if e.metric.name == "score"}
    assert score[50].verdict == "too few runs"
    assert score[50].adjusted is None
    assert score[300].verdict == "win"
    assert score[300].adjusted == score[300].p == pytest.approx(1 / 64)


def test_an_arm_with_a_given_rate_is_held_against_one_with_a_given_rate():
    rows = [
        row(arm=arm, budget=0.3, seed=seed)
        for arm in ("guided", "guided:auto", "random", "random:auto")
        for seed in (1, 2)
    ]
    found = against(group(rows), located, CONTROLS)
    assert {(each.line.arm, each.control) for each in found} == {("guided", "random"), ("guided:auto", "random:auto")}


def test_less_forgetting_is_a_win():
    rows = [each | {"forgetting": 0.01 if "guided" in each["arm"] else 0.5} for each in duel(0.0)]
    (found,) = [e for e in against(pooled(group(rows)), located, CONTROLS) if e.metric.name == "forgetting"]
    assert found.verdict == "win"
    assert found.difference == pytest.approx(-0.49)


def test_forgetting_is_compared_at_equal_score():
    """Both forget as much per point; the one that learns further is not held to its end."""
    rows = []
    for arm, end in (("guided", 80.0), ("random", 40.0)):
        for seed in (1, 2):
            way = [
                {"step": s, "score": end * s / 100, "forgetting": end * s / 1e4, "seconds": s / 10} for s in (0, 100)
            ]
            rows.append(row(arm=arm, budget=0.3, seed=seed, score=end, forgetting=end / 100, curve=way))
    found = {e.metric.name: e.difference for e in against(group(rows), located, CONTROLS)}
    assert found["forgetting"] == pytest.approx(0.4)
    assert found["forgetting_at_equal_score"] == pytest.approx(0.0)


def test_runs_are_compared_where_the_base_had_the_same_weights():
    rows = [row(seed=s, score=90.0, weights=w) for s, w in ((1, "a"), (2, "b"))]
    rows += [row(arm="guided", budget=0.3, seed=s, score=80.0 if s == 1 else 10.0, weights="a") for s in (1, 2)]
    groups = group(rows)
    compared = [c for c in against(groups, located, ("full",)) if c.metric.name == "score"]
    assert [(c.seeds, c.difference) for c in compared] == [(1, -10.0)]
    assert GOALS[0].measure(next(iter(groups.values())), 0.3).seen == "80.0 : 90.0"
    apart = [each | {"weights": each["arm"]} for each in rows]
    assert against(group(apart), located, ("full",)) == []
    assert {goal.measure(next(iter(group(apart).values())), 0.3) for goal in GOALS[:4]} == {None}


def test_sweeps_choose_and_are_not_compared():
    rate = {"phase": "sweep", "seed": 0}
    rows = [row(lr=1e-4, validation=10.0, score=99.0, **rate), row(lr=1e-3, validation=60.0, score=1.0, **rate)]
    (lines,) = group(rows).values()
    assert (lines[Line("full", None)].rate, lines[Line("full", None)].phase) == (1e-3, "sweep")
    rows += [row(lr=1e-3, seed=s, score=50.0) for s in (1, 2)]
    (lines,) = group(rows).values()
    assert [r["score"] for r in lines[Line("full", None)].rows] == [50.0, 50.0]
    alone = group([row(arm="guided", budget=0.3, phase="sweep"), row(arm="random", budget=0.3, phase="sweep")])
    assert against(alone, located, CONTROLS) == []
    assert pooled(alone) == {}


def test_where_to_look_is_where_most_was_run():
    rows = [row(arm=arm, budget=b) for arm, b in (("lora", 0.1), ("lora", 0.3), ("random", 0.3), ("guided", 0.1))]
    assert headline(group([*rows, row(data_size=1000)]))[1] == 0.3
    assert headline(group([*rows, row(data_size=1000)]))[0].data_size == 300


def on_processor(way, factor):
    return [point | {"cpu_seconds": factor * point["seconds"]} for point in way]


def test_cost_is_relative_to_full_on_the_same_seed(tmp_path):
    way = {"full": curve(80.0, 0.1, 20.0), "lora": on_processor(curve(80.0, 0.1, 5.0), 2.0)}
    rows = [row(seed=s, curve=on_processor(way["full"], s), resident_bytes=10**8 * s) for s in (1, 2)]
    rows += [row(arm="lora", budget=0.3, seed=s, curve=way["lora"], resident_bytes=10**8) for s in (1, 2)]
    page = write_report(results(tmp_path / "results", rows), tmp_path)[0].read_text()
    # 10 s of the processor against 20 and 40; 300 MB against 300 and 200.
    line = "| LoRA, all linear layers | 0.38 ± 0.18 | 0.38 ± 0.18 | 1.25 ± 0.35 | - (0 of 2) |"
    assert line in page


def test_the_score_at_the_defaults_time(tmp_path):
    rows = [row(curve=curve(80.0, 0.1, 20.0)), row(arm="guided", budget=0.3, curve=curve(60.0, 0.1, 8.0))]
    page = write_report(results(tmp_path / "results", rows), tmp_path)[0].read_text()
    assert "| full fine-tuning | 1.00 | 1.00 | - (0 of 1) | 53.0 |" in page  # 0.4 of its way
    assert "| 60.0 |" in page


# -- goals ------------------------------------------------------------------------------------------------------------
def reached(**guided):
    """Verdicts on a default recipe against a full fine-tuning and a LoRA that are the same for every call."""
    rows = []
    for seed in (1, 2, 3):
        at = {"seed": seed, "resident_bytes": 0}
        rows.append(row(**at, curve=curve(80.0, 0.2, 20.0), peak_bytes=1000))
        rows.append(row(**at, arm="lora", budget=0.3, score=79.0, curve=curve(80.0, 0.1, 10.0)))
        rows.append(row(**at, arm="guided", budget=0.3, **guided))
    groups = group(rows)
    lines = next(iter(groups.values()))
    return [None if found is None else found.reached for found in (goal.measure(lines, 0.3) for goal in GOALS)], groups


def test_goals_are_reached_and_missed_at_their_edges():
    good = {"score": 79.0, "curve": curve(80.0, 0.049, 6.0), "peak_bytes": 500}
    assert reached(**good)[0] == [True] * 7
    for i, worse in (
        ((0, 1), {"score": 78.9}),
        ((3,), {"curve": curve(80.0, 0.051, 6.0)}),
        ((2, 3), {"curve": curve(80.0, 0.21, 6.0)}),
        ((5,), {"curve": curve(80.0, 0.049, 6.2)}),
        ((4, 5), {"curve": curve(80.0, 0.049, 7.3)}),
        ((6,), {"peak_bytes": 501}),
    ):
        assert reached(**good | worse)[0] == [place not in i for place in range(7)], worse


def test_a_default_that_never_gets_there_has_missed_the_goals_of_time():
    found, groups = reached(score=40.0, curve=curve(40.0, 0.01, 6.0), peak_bytes=500)
    assert found == [False, False, True, False, False, False, True]
    assert "missed: never there" in goals([groups])


def test_time_is_compared_on_the_same_machine(tmp_path):
    slow = {"machine": "2 x slow processor", "resident_bytes": 0}
    rows = [row(seed=s, curve=curve(80.0, 0.2, 20.0), resident_bytes=0) for s in (1, 2)]
    rows += [row(arm="lora", budget=0.3, seed=1, curve=curve(80.0, 0.1, 10.0), resident_bytes=0)]
    rows += [row(arm="lora", budget=0.3, seed=2, curve=curve(80.0, 0.1, 40.0), **slow)]
    rows += [row(arm="guided", budget=0.3, seed=s, curve=curve(80.0, 0.1, 5.0), resident_bytes=0) for s in (1, 2)]
    lines = next(iter(group(rows).values()))
    assert GOALS[5].measure(lines, 0.3).seen == "0.50x"  # 5 s against 10 s; the slow 40 s are no partner
    page = write_report(results(tmp_path / "results", rows), tmp_path)[0].read_text()
    # At 5 s of its 10, between 53 and 68; what it would have had on the other machine at seed 2 is not known.
    (line,) = (line for line in page.splitlines() if line.startswith("| LoRA, all linear layers | 0.5"))
    assert "| 60.5 (1 of 2) |" in line, line
    assert f"Machines: 2 x slow processor (1 run); 2 x test processor ({len(rows) - 1} runs)." in page


def test_memory_that_was_not_measured_is_no_miss():
    rows = [row(resident_bytes=0), row(arm="guided", budget=0.3)]
    assert GOALS[-1].measure(next(iter(group(rows).values())), 0.3) is None


def test_what_was_not_run_is_a_dash():
    table = goals([group([row(), row(arm="guided", budget=1.0)])])
    assert table.count("| - |") == len(GOALS)


def test_the_default_is_judged_at_a_budget_that_lora_has_too():
    default = [row(arm="guided", budget=budget) for budget in (0.1, 0.3, 0.5, 0.9)]
    for budgets, shown in (((), "0.5"), ((0.1, 0.3), "0.3"), ((0.9,), "0.5")):
        rows = [row(), *default, *(row(arm="lora", budget=budget) for budget in budgets)]
        assert f"| reversal, {shown} % |" in goals([group(rows)])


# -- the default rate -------------------------------------------------------------------------------------------------
def test_the_default_rate_is_the_plans():
    anatomy = Anatomy.of(make("llama"))
    wider = 576 / anatomy.hidden_size
    plan = Plan(select(random(None, anatomy), "40%"))
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
    plan = Plan(select(random(None, Anatomy.of(make("llama"))), "40%"))
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


# -- few rows, bad rows ---------------------------------------------------------------------------------------------------
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


def test_one_run_is_a_page_without_a_map(tmp_path):
    paths = write_report(results(tmp_path / "results", [row(phase="sweep")]), tmp_path)
    page = paths[0].read_text()
    assert "1 (sweep)" in page
    assert "half and twice" not in page
    assert not [path for path in paths if "regimes" in path.name]


def test_what_was_refused_is_said(tmp_path):
    folder = results(tmp_path / "results", [row()])
    names = ("suite", "model", "task", "budget", "lr", "seed", "draw", "data_size", "steps", "phase")
    cells = [{n: row()[n] for n in names} | {"arm": arm, "reason": "is not installed"} for arm in ("badam", "full")]
    (folder / "testbed.refused.json").write_text(json.dumps({"kind": "refused", "version": 1, "cells": cells}))
    page = write_report(folder, tmp_path)[0].read_text()
    assert "Refused: BAdam, 1 run: is not installed." in page
    assert "Refused: full" not in page, "it has been run since"


@pytest.mark.parametrize("cells", [None, {}, [{}], [3], [{"arm": "badam", "reason": "is not installed"}]])
def test_refused_runs_that_cannot_be_read_are_named(tmp_path, cells):
    folder = results(tmp_path / "results", [row()])
    data = {"kind": "refused", "version": 1} | ({} if cells is None else {"cells": cells})
    (folder / "testbed.refused.json").write_text(json.dumps(data))
    with pytest.raises(GuidedError, match=r"testbed.refused.json: 'cells' is no list of runs with a reason"):
        write_report(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


BAD = {
    "no rows": (None, "no rows of testbed or smollm2"),
    "a bad row": ([row(), row() | {"score": 300}], r"testbed.jsonl:2: score is 300"),
    "another suite": ([row(suite="smollm2")], "rows of suite 'smollm2'"),
    "the base alone": ([row(arm="base")], "but, perhaps, of the base"),
}


def test_a_suite_that_has_only_begun_does_not_hold_up_the_other(tmp_path):
    folder = results(results(tmp_path / "results", [row()]), [row(suite="smollm2", arm="base")], "smollm2")
    assert "smollm2" not in write_report(folder, tmp_path)[0].read_text()


@pytest.mark.parametrize("bad", BAD)
def test_from_bad_rows_nothing_is_written(tmp_path, bad):
    rows, words = BAD[bad]
    folder = results(tmp_path / "results", rows or [])
    with pytest.raises(GuidedError, match=words):
        write_report(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_its_own_old_plots_go(tmp_path):
    plots = tmp_path / "plots"
    plots.mkdir()
    for name in ("bench_testbed_gone_pareto.svg", "step_budget.svg"):
        (plots / name).write_text("old")
    write_report(results(tmp_path / "results", [row()]), tmp_path)
    assert not (plots / "bench_testbed_gone_pareto.svg").exists()
    assert (plots / "step_budget.svg").read_text() == "old"


def test_a_call_that_is_stopped_leaves_all_as_it_was(tmp_path, monkeypatch):
    def found():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def interrupt(*args):
        raise KeyboardInterrupt

    write_report(results(tmp_path / "results", [row(), row(arm="lora", budget=0.3)]), tmp_path)
    results(tmp_path / "results", [row(score=12.0), row(arm="guided", budget=0.3)])
    before = found()
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.side_by_side.figures.curves", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_report(tmp_path / "results", tmp_path)
    assert found() == before
    write_report(tmp_path / "results", tmp_path)
    assert found() != before


@pytest.mark.parametrize("place", ["plots", "RESULTS.md"])
def test_what_is_in_the_way_is_one_line_and_exit_code_2(tmp_path, capsys, place):
    from guided_ft.cli import main

    folder = results(tmp_path / "results", [row()])
    (tmp_path / place).write_text("mine") if place == "plots" else (tmp_path / place).mkdir()
    with pytest.raises(SystemExit) as stop:
        main(["bench", "report", "--out", str(folder)])
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert said.startswith(f"{tmp_path / place}: ")


# -- names ------------------------------------------------------------------------------------------------------------------
def test_every_arm_of_the_runner_has_a_name_and_a_look():
    assert set(LABELS) == set(ARMS)
    assert {*CONTROLS, *REFERENCES, *PLACED, *PLACED.values()} <= set(ARMS)
    looks = [(colour(arm), marker(arm)) for arm in ARMS]
    assert len(set(looks)) == len(looks)
    assert label("guided:new-score") == "guided (default), new score"
    assert ordered(["random", "guided:new-score", "full"]) == ["full", "guided:new-score", "random"]


def test_the_command_writes_beside_the_results(tmp_path):
    from typer.testing import CliRunner

    from guided_ft.cli import app

    folder = results(tmp_path / "results", [row(), row(arm="lora", budget=0.3)])
    done = CliRunner().invoke(app, ["bench", "report", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    said = [Path(line.removeprefix("wrote ")) for line in done.output.splitlines()]
    assert said[0] == tmp_path / "RESULTS.md"
    assert set(said) == {path for path in tmp_path.rglob("*") if path.is_file()} - {folder / "testbed.jsonl"}


# -- what must not be passed over -----------------------------------------------------------------------------------------
def test_a_lora_that_trains_more_than_the_default_is_said_to():
    rows = [row(), row(arm="guided", budget=0.3, trainable=1000)]
    rows += [row(arm="lora", budget=0.3, trainable=3000)]
    (line, *_) = [line for line in goals([group(rows)]).splitlines() if "at equal parameters" in line]
    assert line.endswith("reached: 80.0 : 80.0 (LoRA, all linear layers: 3.0 times the parameters) |")
    rows[-1]["trainable"] = 1100
    assert "times the parameters" not in goals([group(rows)])


def test_a_loss_against_any_random_choice_is_shown(tmp_path):
    rows = duel(-10.0)
    for each in rows:
        each["arm"] = each["arm"].replace("random", "random:default")
    page = write_report(results(tmp_path / "lost", rows), tmp_path)[0].read_text()
    assert "| guided, two-sided | random, placed as the default | score (points) | loss |" in page
    for each in rows:
        each["score"] = 50.0
    page = write_report(results(tmp_path / "tied", rows), tmp_path / "b")[0].read_text()
    assert "| guided, two-sided | random, placed as the default | score (points) | tie |" not in page


@pytest.mark.parametrize(
    ("arm", "control", "better", "shown"),
    [
        ("guided:lora", "random", 10.0, False),
        ("guided:rank", "random", 10.0, False),
        ("guided:rank", "random:rank", 10.0, True),
        ("guided:rank", "random", -10.0, True),
    ],
)
def test_what_another_way_of_training_wins_is_not_the_maps(arm, control, better, shown, tmp_path):
    names = {"guided:two-sided": arm, "random": control}
    rows = [each | {"arm": names.get(each["arm"], each["arm"])} for each in duel(better)]
    page = write_report(results(tmp_path / "results", rows), tmp_path)[0].read_text()
    verdict = "win" if better > 0 else "loss"
    assert (f"| {label(arm)} | {label(control)} | score (points) | {verdict} |" in page) == shown
