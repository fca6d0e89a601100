"""Disk full, or permission denied, at every write of a run: the path is named, and the run goes on where there is room."""

from __future__ import annotations

import errno
import json
import re

import pytest
import tiny_run
from full_disk import FullDisk
from tiny_run import adapter

from guided_ft import GuidedError, run
from guided_ft.system.files import write_text, writing


def tried(disk: FullDisk, recipe) -> OSError | GuidedError | None:
    """What a run is stopped by; None if it ends."""
    try:
        with disk.failing():
            run(recipe, quiet=True)
    except (OSError, GuidedError) as error:
        return error
    return None


WAYS = {
    "slice": {"prefix_cache": "1MB"},
    "subspace": {"prefix_cache": "1MB", "mode": "subspace", "mode_options": {"max_rank": 4}},
    "dpo": {"trainer": "dpo"},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "number"),
    [("slice", errno.ENOSPC), ("slice", errno.EACCES), ("subspace", errno.ENOSPC), ("dpo", errno.ENOSPC)],
)
def test_every_write_fails_once_and_the_bits_are_the_same(way, number, tmp_path, monkeypatch):
    """In one folder: each try comes as far as the next write that has not failed yet."""
    monkeypatch.setenv("GUIDED_FT_CACHE", str(tmp_path / "cache"))
    train = {"steps": 4, "save_steps": 2, **WAYS[way]}
    asked = {"control": "none", "train": train, "select": {"budget": "15%", "first_layer": 1}}
    run(tiny_run.recipe(tmp_path, "whole", **asked), quiet=True)
    disk = FullDisk(tmp_path / "tried", number)
    tries = 0
    while (refused := tried(disk, tiny_run.recipe(tmp_path, "tried", **asked))) is not None:
        tries += 1
        assert str(tmp_path / "tried") in str(getattr(refused, "filename", None) or refused), (disk.last, refused)
        assert tries < 120
    assert adapter(tmp_path / "tried") == adapter(tmp_path / "whole")
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "tried")]
    assert records[0]["after"] == records[1]["after"]
    assert not list((tmp_path / "tried").rglob("*.tmp"))
    kinds = {what for what, _ in disk.failed}
    assert {"open", "replace", "mkstemp", "torch.save", "safetensors"} <= kinds
    assert tries >= 20, "there are more writes than that"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("os error 28"), OSError(13, "x")]
)
def test_whoever_is_refused_the_path_is_named(error, tmp_path):
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "x"))) as caught, writing(tmp_path / "x"):
        raise error
    assert caught.value.filename == str(tmp_path / "x")
    assert caught.value.errno in (28, 13)


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"), writing(tmp_path / "x"):
        raise RuntimeError("shapes do not match")
    with pytest.raises(GuidedError, match="no room"), writing(tmp_path / "x"):
        raise GuidedError("no room (os error 28)")


def test_a_refused_write_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "x", "old")
    for number in (errno.ENOSPC, errno.EACCES):
        disk = FullDisk(tmp_path, number)
        for _ in range(2):  # the making of a temporary file, and its becoming the real one
            with disk.failing(), pytest.raises(OSError, match="x") as caught:
                write_text(tmp_path / "x", "new")
            assert caught.value.filename == str(tmp_path / "x")
            assert (tmp_path / "x").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
