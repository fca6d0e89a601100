"""The page, the sheets and the plots: what the rows say, the same bytes each time, nothing from bad rows."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest
from bench_rows import benchmark, results, row
from typer.testing import CliRunner

from benchmarks.side_by_side.__main__ import PROGRAM, app
from benchmarks.side_by_side.arms.arms import ARMS
from benchmarks.side_by_side.arms.labels import CONTROLS, PLACED, colour, label, marker, ordered
from benchmarks.side_by_side.units.compare import REFERENCES
from benchmarks.side_by_side.units.report import write_report
from benchmarks.side_by_side.units.same_rate import same_rate
from guided_ft.cli import main
from guided_ft.errors import GuidedError

pytest.importorskip("matplotlib")


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
        patch.setattr("benchmarks.side_by_side.units.figures.curves", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_report(tmp_path / "results", tmp_path)
    assert found() == before
    write_report(tmp_path / "results", tmp_path)
    assert found() != before


@pytest.mark.parametrize("place", ["plots", "RESULTS.md"])
def test_what_is_in_the_way_is_one_line_and_exit_code_2(tmp_path, capsys, place):
    folder = results(tmp_path / "results", [row()])
    (tmp_path / place).write_text("mine") if place == "plots" else (tmp_path / place).mkdir()
    with pytest.raises(SystemExit) as stop:
        main(["report", "--out", str(folder)], app, PROGRAM)
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert said.startswith(f"{tmp_path / place}: ")


def test_every_arm_of_the_runner_has_a_name_and_a_look():
    assert all(arm.label and arm.help for arm in ARMS.values())
    assert {*CONTROLS, *REFERENCES, *PLACED, *PLACED.values()} <= set(ARMS)
    looks = [(colour(arm), marker(arm)) for arm in ARMS]
    assert len(set(looks)) == len(looks)
    assert label("guided:new-score") == "guided (default), new score"
    assert ordered(["random", "guided:new-score", "full"]) == ["full", "guided:new-score", "random"]


def test_the_command_writes_beside_the_results(tmp_path):
    folder = results(tmp_path / "results", [row(), row(arm="lora", budget=0.3)])
    done = CliRunner().invoke(app, ["report", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    said = [Path(line.removeprefix("wrote ")) for line in done.output.splitlines()]
    assert said[0] == tmp_path / "RESULTS.md"
    assert set(said) == {path for path in tmp_path.rglob("*") if path.is_file()} - {folder / "testbed.jsonl"}
