"""The command line of the benchmark: what it hands over, and how it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.side_by_side.__main__ import PROGRAM, app
from guided_ft.cli import main


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments, app, PROGRAM)
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


LONG = "x" * 300


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple, dict[str, Any]]]:
    """Stands in for the runs and the tables of benchmarks.side_by_side; what they were asked."""
    import benchmarks.side_by_side.training.run
    import benchmarks.side_by_side.units.report

    asked: list[tuple[tuple, dict[str, Any]]] = []
    monkeypatch.setattr(
        benchmarks.side_by_side.training.run, "run_suite", lambda *args, **options: asked.append((args, options))
    )
    monkeypatch.setattr(
        benchmarks.side_by_side.units.report, "write_report", lambda *args: asked.append((args, {})) or []
    )
    return asked


def test_bench_hands_over_what_was_asked(capsys, benchmark) -> None:
    assert call(capsys, "testbed", "arm=full,lora", "seed=1", "--limit", "3", "--out", "x")[0] == 0
    [((suite, folder), options)] = benchmark
    assert (suite, folder) == ("testbed", Path("x"))
    assert (options["only"], options["limit"]) == ({"arm": {"full", "lora"}, "seed": {"1"}}, 3)
    assert call(capsys, "testbed", "arn=full")[::2] == (
        2,
        "bench: unknown value 'arn' (did you mean 'arm'?)\n",
    )


def test_quick_and_full_rows_are_kept_apart(capsys, benchmark) -> None:
    call(capsys, "testbed")
    call(capsys, "testbed", "--quick")
    folders = [args[1] for args, _ in benchmark]
    assert folders == [Path("benchmarks/results"), Path("runs/bench-quick")]


def test_a_path_that_the_machine_refuses_is_one_line(capsys) -> None:
    code, _, said = call(capsys, "report", "--out", LONG)
    assert code == 2
    assert said.startswith(f"{LONG}/testbed.jsonl: File name too long")
    assert said.count("\n") == 1
