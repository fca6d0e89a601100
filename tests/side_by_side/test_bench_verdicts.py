"""Verdicts on known answers: wins, ties and costs, and nothing passed over."""

from __future__ import annotations

import pytest
from bench_rows import curve, results, row

from benchmarks.side_by_side.arms.labels import CONTROLS, label
from benchmarks.side_by_side.units.compare import against, located
from benchmarks.side_by_side.units.goals import GOALS, goals
from benchmarks.side_by_side.units.groups import ALL_TASKS, Line, group, headline, pooled
from benchmarks.side_by_side.units.report import write_report

pytest.importorskip("matplotlib")


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
