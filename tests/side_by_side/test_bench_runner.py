"""The runner: it continues where it was stopped, and says what went wrong."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import bench_rows
import pytest
from bench_lab import no_text

from benchmarks.side_by_side.rows.rows import read_rows
from benchmarks.side_by_side.suites import suite
from benchmarks.side_by_side.suites.cell import Campaign
from benchmarks.side_by_side.training import run
from guided_ft.errors import GuidedError


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
        "benchmarks.side_by_side.training.trial.run_cell", lambda lab, cell: print("next layer") or {"cell": cell}
    )
    assert run._work("this") == ({"cell": "this"}, "")
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_quick_from_the_command_line(tmp_path, monkeypatch):
    """As a user runs it: pre-trained, swept, run, in a process of its own, and again without anything left to do."""
    from typer.testing import CliRunner

    from benchmarks.side_by_side.__main__ import app

    monkeypatch.setenv("GUIDED_FT_CACHE", str(tmp_path / "cache"))
    command = ["testbed", "arm=base,full,guided", "--quick", "--threads", "1", "--out", str(tmp_path)]
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
    import time

    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, sys, threading, time\n"
        "from benchmarks.side_by_side.training.run import _follow_parent\n"
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
