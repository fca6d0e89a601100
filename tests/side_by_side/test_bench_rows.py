"""The raw rows: read strictly, appended safely."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bench_rows import row

from benchmarks.side_by_side.rows.rows import ABOUT, FIELDS, IDENTITY, append_row, check_row, dedupe, key, read_rows
from guided_ft.errors import GuidedError


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_what_is_appended_is_read_back(tmp_path):
    path = tmp_path / "new" / "testbed.jsonl"
    rows = [row(seed=seed, forgetting=None if seed else 0.25) for seed in range(3)]
    for each in rows:
        append_row(path, each)
    assert read_rows(path) == rows


BAD = {
    "not JSON": ("{", "not valid JSON"),
    "no object": ("[1]", "not a JSON object"),
    "NaN": (json.dumps(row()).replace('"score": 80.0', '"score": NaN'), "NaN is not a JSON number"),
    "score over 100": (json.dumps(row(score=101.0, curve=[])), "score is 101.0, not a number from 0 to 100"),
    "a bool for a count": (json.dumps(row(seed=True)), "seed is true, not a whole number from 0"),
    "a score that is null": (json.dumps(row(validation=None)), "validation is null, not a number from 0 to 100"),
    "budget 0": (json.dumps(row(budget=0.0)), "budget is 0.0, not a number above 0 or null"),
    "a phase": (json.dumps(row(phase="final")), "phase is \"final\", not one of sweep, main"),
    "an arm that is a path": (json.dumps(row(arm="../x")), "arm is \"../x\", not a name such as"),
    "a curve from the middle": (
        json.dumps(row(curve=[{"step": 5, "score": 1, "forgetting": 0.0, "seconds": 1}])),
        "curve[0]: begins at step 5",
    ),
    "a curve that goes back": (
        json.dumps(row(curve=[{"step": s, "score": 1, "forgetting": 0.0, "seconds": 1} for s in (0, 5, 5)])),
        "curve[2]: step 5 at 1 s does not come after",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_row_is_one_line_with_file_and_line(tmp_path, bad):
    line, words = BAD[bad]
    path = write(tmp_path / "testbed.jsonl", json.dumps(row()), "", line, json.dumps(row(seed=1)), "")
    with pytest.raises(GuidedError) as error:
        read_rows(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_must_be_there(name):
    whole = row()
    check_row(whole, "here")
    del whole[name]
    with pytest.raises(GuidedError, match=f"here: no field '{name}'"):
        check_row(whole, "here")


@pytest.mark.parametrize("name", ABOUT)
def test_rows_of_before_tell_nothing_of_their_arm_and_new_ones_tell_all(tmp_path, name):
    old = {field: value for field, value in row().items() if field not in ABOUT}
    check_row(old, "here")
    part = row()
    del part[name]
    with pytest.raises(GuidedError, match=f"here: no field '{name}'"):
        check_row(part, "here")
    with pytest.raises(GuidedError, match=r"^row: no field "):
        append_row(tmp_path / "testbed.jsonl", old)


def test_a_misspelt_field_is_named():
    whole = row()
    whole["forgeting"] = whole.pop("forgetting")
    with pytest.raises(GuidedError, match=r"no field 'forgetting' .*forgeting"):
        check_row(whole, "here")


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_torn_last_line_costs_that_row_only(tmp_path, cut):
    first, second, third = (row(seed=seed) for seed in range(3))
    path = write(tmp_path / "testbed.jsonl", json.dumps(first), json.dumps(second)[:-cut])
    assert read_rows(path) == [first]
    append_row(path, third)
    assert read_rows(path) == [first, third]


def test_a_last_line_that_only_lacks_its_end_is_a_row(tmp_path):
    first, second, third = (row(seed=seed) for seed in range(3))
    path = write(tmp_path / "testbed.jsonl", json.dumps(first), json.dumps(second))
    assert read_rows(path) == [first, second]
    append_row(path, third)
    assert read_rows(path) == [first, second, third]


def test_a_row_that_is_not_complete_is_not_written(tmp_path):
    path = tmp_path / "testbed.jsonl"
    with pytest.raises(GuidedError, match="row: seed is -1"):
        append_row(path, row(seed=-1))
    assert not path.exists()


def test_writers_take_turns(tmp_path):
    path = tmp_path / "testbed.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: append_row(path, row(seed=seed)), range(40)))
    assert sorted(each["seed"] for each in read_rows(path)) == list(range(40))


def test_the_last_of_the_same_run_counts():
    rows = [row(seed=0, score=1.0), row(seed=1), row(seed=0, score=2.0)]
    assert [(each["seed"], each["score"]) for each in dedupe(rows)] == [(0, 2.0), (1, 80.0)]


@pytest.mark.parametrize("name", IDENTITY)
def test_what_tells_runs_apart(name):
    other = {"budget": 0.3, "lr": 0.5, "phase": "sweep"}.get(name, 7 if isinstance(row()[name], int) else "other")
    assert key(row()) != key(row(**{name: other}))
    assert key(row()) == key(row(score=1.0, seconds=2.0, machine="another"))
