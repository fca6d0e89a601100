"""Only what a run made is ever cleared, and a finished run stays whole until its successor is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import adapter, again, cut, recipe

from guided_ft import GuidedError, Recipe, run
from guided_ft.pipeline import run_folder
from guided_ft.system.files import write_json

OUTPUTS = (
    "adapter/adapter_model.safetensors",
    "scores.safetensors",
    "plan.json",
    "probe.safetensors",
    "held_out.jsonl",
)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, without what waits in ``next``."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: data for name, data in found.items() if not name.startswith("next/")}


def fill(folder: Path, files: dict[str, str]) -> dict[str, bytes]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return content(folder)


def mistaken(asked: Recipe) -> Recipe:
    """The same recipe with a path of data that does not exist."""
    settings = asked.to_dict()
    settings["data"]["path"] = "nope.jsonl"
    return Recipe.from_dict(settings)


def test_a_folder_that_no_run_made_is_refused_untouched(tmp_path):
    files = {"train/mine.txt": "a", "adapter/mine.txt": "b", "recipe.yaml": "c", "stages/plan.json": "{}"}
    before = fill(tmp_path / "run", files)
    with pytest.raises(GuidedError, match=r"^output: .*run holds files that no run made \(give a new or empty folder"):
        run(recipe(tmp_path), quiet=True)
    assert content(tmp_path / "run") == before


def test_a_refused_recipe_leaves_no_folder(tmp_path):
    with pytest.raises(GuidedError, match="nope"):
        run(mistaken(recipe(tmp_path, output=str(tmp_path / "a" / "b" / "run"))), quiet=True)
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(GuidedError, match="nope"):
        run(mistaken(recipe(tmp_path, "empty")), quiet=True)
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_refused_recipe_changes_nothing_of_an_unfinished_run(tmp_path):
    run(recipe(tmp_path), until="before", quiet=True)
    before = content(tmp_path / "run")
    assert {"recipe.yaml", "stages/before.json", run_folder.MARKER} <= set(before)
    with pytest.raises(GuidedError, match="nope"):
        run(mistaken(recipe(tmp_path)), quiet=True)
    with pytest.raises(GuidedError, match="no/such-model"):
        run(recipe(tmp_path, model="no/such-model"), quiet=True)
    assert content(tmp_path / "run") == before


def test_a_folder_of_an_earlier_version_is_known_by_its_stages(tmp_path):
    write_json(tmp_path / "stages" / "before.json", {"kind": "stage", "version": 1, "key": "", "result": {}})
    with run_folder.claimed(tmp_path):
        assert (tmp_path / run_folder.MARKER).is_file()


def test_a_second_run_in_a_folder_is_refused(tmp_path):
    folder = tmp_path / "run"
    code = "import sys, pathlib; from guided_ft.pipeline.run_folder import claimed\n"
    code += "with claimed(pathlib.Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(GuidedError, match=f"run is in use by process {other.pid} "):
            run(recipe(tmp_path), quiet=True)
        other.kill()
    with run_folder.claimed(folder):
        assert json.loads((folder / run_folder.MARKER).read_text())["process"] == os.getpid()


def test_a_replacement_that_is_killed_is_made_up_for(tmp_path, monkeypatch):
    old = {"adapter/a": "old", "control/c": "old", "plan.json": "old", "train/t": "old", "notes.txt": "the user's"}
    new = {"adapter/b": "new", "plan.json": "new", "run.json": "new", run_folder.MARKER: ""}
    moves = 0
    for allowed in range(20):
        home = tmp_path / str(allowed)
        with run_folder.claimed(home):
            fill(home, old)
            fill(home / "next", new)
        made, real = [], Path.rename

        def rename(self, target, made=made, real=real, allowed=allowed):
            if len(made) == allowed:
                raise KeyboardInterrupt
            made.append(target)
            return real(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            try:
                run_folder.replace(home)
                whole = True
            except KeyboardInterrupt:
                whole = False
                moves += 1
        with run_folder.claimed(home):
            found = {name: data.decode() for name, data in content(home).items() if name != run_folder.MARKER}
        is_old = {name: found.get(name) == text for name, text in old.items()}
        if allowed == 0:
            assert all(is_old.values())
            continue
        kept = {"train/t": "old", "notes.txt": "the user's"}
        assert found == kept | {"adapter/b": "new", "plan.json": "new", "run.json": "new"}
        assert sorted(path.name for path in home.iterdir() if path.is_dir()) == ["adapter", "train"]
        if whole:
            break
    assert moves >= 5


@pytest.mark.slow
def test_a_finished_run_stays_whole_until_its_successor_is(tmp_path, finished, capsys):
    first = again(finished, tmp_path)
    run(first, quiet=True)

    def other(**changes):
        return recipe(finished, output=first.output, **changes)

    folder = tmp_path / "run"
    before = content(folder)
    assert {"run.json", "report.html", *OUTPUTS} <= set(before)
    assert [name for name in before if "checkpoint" in name] == [], "nobody goes on from a training that is done"

    with pytest.raises(GuidedError, match="nope"):
        run(mistaken(first), quiet=True)
    with pytest.raises(GuidedError, match="stepz"):
        run(other(localize={"options": {"stepz": 3}}), quiet=True)
    assert content(folder) == before
    assert not (folder / "next").exists()

    run(first, until="localize", quiet=True)
    assert not (folder / "next").exists()
    run(other(localize={"method": "magnitude"}), until="localize", quiet=True)
    assert content(folder) == before
    assert (folder / "next" / "scores.safetensors").is_file()

    second = other(select={"budget": "10%"}, control="none")
    capsys.readouterr()
    cut(second, quiet=False)
    assert content(folder) == before
    told = capsys.readouterr().out.splitlines()
    assert told[1].startswith("a finished run is there, of other settings (select, train, evaluate): it stays until")

    result = run(second, quiet=True)
    assert json.loads((folder / "stages" / "train.json").read_text())["result"]["resumed_from"] == "checkpoint-6"
    assert result["command"] == f"guided-ft run {folder / 'recipe.yaml'}"
    assert result["budget"] == "10%"
    assert not {"next", "control", run_folder.DONE} & {path.name for path in folder.iterdir()}
    run(recipe(tmp_path, "clean", select={"budget": "10%"}, control="none"), quiet=True)
    assert adapter(folder) == adapter(tmp_path / "clean")
    assert Recipe.load(str(folder / "recipe.yaml")) == second


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
def test_what_a_stage_left_is_compared_by_content(whole_run, name):
    asked, folder = whole_run
    whole = (folder / name).read_bytes()
    for damage in (None, whole[: len(whole) // 2], b"X" + whole[1:]):
        if damage is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(damage)
        run(asked, until="evaluate", quiet=True)
        assert (folder / name).read_bytes() == whole
        assert (folder / "run.json").is_file()


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, finished) -> tuple[Recipe, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return again(finished, folder, control="none"), folder / "run"


def test_a_record_that_was_changed_is_none(tmp_path):
    """A valid file with another figure in it: the stage is done again."""
    run_folder.keep_entry(tmp_path, "train", {"key": "k", "result": {"loss": [[1, 2.0]]}})
    kept = run_folder.stage_entry(tmp_path, "train")
    assert kept is not None
    assert kept["result"] == {"loss": [[1, 2.0]]}
    path = tmp_path / "stages" / "train.json"
    path.write_text(path.read_text().replace("2.0", "3.0"))
    assert run_folder.stage_entry(tmp_path, "train") is None
