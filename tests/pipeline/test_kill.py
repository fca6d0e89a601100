"""Law 8: killed at any moment, a run resumes to the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run
from tiny_run import adapter

from guided_ft.callback.checkpoint import checkpoints, fault, newest_complete

MOMENTS = (
    "scores.safetensors",
    "selection.json",
    "train/checkpoint-1/adapter_config.json",
    "train/checkpoint-3/adapter_model.safetensors",
    "train/checkpoint-5/optimizer.pt",
    "train/checkpoint-7/scheduler.pt",
    "train/checkpoint-9/trainer_state.json",
    "train/checkpoint-11/guided.json",
    ".adapter.tmp/adapter_model.safetensors",
    "probe.safetensors",
)
"""The run is killed within a millisecond after each of these appears: between stages and inside of saves."""


def _children(folder: Path, files: tuple[str, ...]) -> list[str]:
    command = [sys.executable, str(Path(__file__).parents[1] / "tools" / "kill_run.py"), str(folder), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split("\n")[:-1]


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bits(tmp_path):
    tiny_run.recipe(tmp_path)  # the model and the data
    whole, *fates = _children(tmp_path, MOMENTS)
    assert whole == "ended 0"
    # A moment can be over before it is seen, but not most of them.
    assert fates.count("killed") >= 7
    assert fates[-1] == "ended 0"
    assert adapter(tmp_path / "killed") == adapter(tmp_path / "whole")
    both = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "killed")]
    for key in ("after", "retention", "selected", "frozen"):
        assert both[0][key] == both[1][key], key


@pytest.mark.slow
def test_a_checkpoint_cut_at_any_file_is_never_resumed_from(tmp_path):
    from guided_ft import run

    asked = tiny_run.recipe(tmp_path, control="none")
    run(asked, quiet=True)
    whole = adapter(tmp_path / "run")
    folder = tmp_path / "run" / "train"
    newest = checkpoints(folder)[-1]
    kept = {path.name: path.read_bytes() for path in newest.iterdir()}
    assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "guided.json"} <= set(kept)
    for name, content in kept.items():
        for damage in (None, content[: len(content) // 2], b""):
            path = newest / name
            path.unlink() if damage is None else path.write_bytes(damage)
            assert fault(newest) is not None
            assert newest_complete(folder) == checkpoints(folder)[-2]
            path.write_bytes(content)
    assert newest_complete(folder) == newest
    (newest / "optimizer.pt").unlink()
    (tmp_path / "run" / "stages" / "train.json").unlink()
    run(asked, quiet=True)
    assert adapter(tmp_path / "run") == whole
