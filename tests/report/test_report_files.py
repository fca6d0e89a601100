"""What the report reads and writes, and what it refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from reports import a_run, anatomy, make

from guided_ft.anatomy import Component
from guided_ft.errors import GuidedError
from guided_ft.report import write_report
from guided_ft.report.record import RunRecord, checked
from guided_ft.selection.selection import Selection
from guided_ft.system.files import MEND, write_json


def test_the_report_is_written_atomically(tmp_path, monkeypatch) -> None:
    path = write_report(make(tmp_path))
    assert path == tmp_path / "report.html"
    before, names = path.read_bytes(), sorted(os.listdir(tmp_path))
    write_json(tmp_path / "run.json", a_run(name="another"))

    def fail(*_: Any) -> None:
        raise OSError("the disk went away")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="went away"):
            write_report(tmp_path)
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == names
    assert b"another" in write_report(tmp_path).read_bytes()


def test_the_same_run_gives_the_same_page(tmp_path) -> None:
    first = write_report(make(tmp_path)).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def error_of(folder: Path) -> str:
    with pytest.raises(GuidedError) as caught:
        write_report(folder)
    assert not (folder / "report.html").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_a_run_is_named(tmp_path) -> None:
    assert error_of(tmp_path) == f"{tmp_path}: no run.json here (give the folder of a run)"


@pytest.mark.parametrize("text", ['{"kind": "plan"}', "[]", "{", ""])
def test_what_is_not_a_run_file_is_refused(tmp_path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert error_of(tmp_path).startswith(f"{tmp_path / 'run.json'}: not ")


NEEDED = ["name", "command", "model", "task", "method", "mode", "trainable", "total", "before", "after", "seconds"]


@pytest.mark.parametrize("key", NEEDED)
def test_an_unfinished_run_is_told_apart(tmp_path, key: str) -> None:
    run = a_run()
    del run[key]
    line = f"run.json: '{key}' is missing (the run has not finished; run it again to continue)"
    assert error_of(make(tmp_path, run)).endswith(line)
    with pytest.raises(GuidedError, match=f"^{re.escape(line)}$"):
        checked(run)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"after": [1]}, "'after' is not an object"),
        ({"after": {"exact_match": "1"}}, "'after.exact_match' is not a number"),
        ({"after": {"exact_match": True}}, "'after.exact_match' is not a number"),
        ({"trainable": "many"}, "'trainable' is not a whole number"),
        ({"trainable": True}, "'trainable' is not a whole number"),
        ({"total": 0}, "'total' is below 1 (a model has parameters)"),
        ({"name": 3}, "'name' is not text"),
        ({"loss": {}}, "'loss' is not a list"),
        ({"loss": [[1, "x"]]}, "'loss' is not a list of [step, loss]"),
        ({"loss": [[1, 2, 3]]}, "'loss' is not a list of [step, loss]"),
        ({"checks": ["x"]}, "'checks[0]' is not an object"),
        ({"checks": [{"name": "x", "ok": 1}]}, "'checks[0].ok' is not true or false"),
        ({"samples": [1]}, "'samples[0]' is not an object"),
        ({"control": {"random": 1}}, "'control.random' is not an object"),
        ({"control": {"random": {"trainable": 1, "after": [1]}}}, "'control.random.after' is not an object"),
        (
            {"control": {"random": {"trainable": 1, "after": {}, "loss": [1]}}},
            "'control.random.loss' is not a list of [step, loss]",
        ),
        (
            {"retention": {"text": "self", "before": {"loss": 1.0, "kl": 0.0}, "after": 3}},
            "'retention.after' is not an object",
        ),
        ({"reload": {"max_difference": float("inf")}}, "'reload.max_difference' is not a finite number"),
        ({"version": 2}, "'version' is not what a run holds"),
        (
            {"expected_random": None},
            "'expected_random' is not a key of a run (update guided_ft, if a newer one wrote it)",
        ),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], line: str) -> None:
    mend = "" if line.endswith(")") else " (the file was changed; run it again: the recipe is beside it)"
    with pytest.raises(GuidedError, match=f"^run.json: {re.escape(line + mend)}$"):
        checked(a_run(**changes))


def test_a_record_is_written_as_it_was_read_and_does_not_change() -> None:
    run = a_run()
    record = checked(run)
    assert record.to_dict() == run
    assert set(record.to_dict()) == set(run) <= set(RunRecord.model_fields)
    with pytest.raises(ValueError, match="frozen"):
        record.name = "another"  # type: ignore[misc]


@pytest.mark.parametrize("key", ["total", "trainable"])
def test_a_number_beyond_all_floats_is_refused(tmp_path, key: str) -> None:
    line = f"{tmp_path / 'run.json'}: not valid JSON (a number of 400 digits): {MEND}"
    assert error_of(make(tmp_path, a_run(**{key: 10**399}))) == line


@pytest.mark.parametrize("name", ["scores.safetensors", "scores.json", "selection.json"])
def test_a_missing_file_is_named(tmp_path, name: str) -> None:
    (make(tmp_path) / name).unlink()
    assert f"{name}: cannot be read" in error_of(tmp_path)


@pytest.mark.parametrize("name", ["selection.json", "control/selection.json"])
def test_files_of_two_models_are_not_mixed(tmp_path, name: str) -> None:
    make(tmp_path)
    Selection(anatomy(50_000), (Component("neuron", 0, 0),)).save(tmp_path / name)
    assert error_of(tmp_path) == f"{tmp_path / name}: of another model than scores.safetensors"


def test_the_report_imports_no_torch() -> None:
    code = "import sys, guided_ft.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
