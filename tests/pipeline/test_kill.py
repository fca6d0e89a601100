"""Law 8: killed at any moment, a run resumes to the same bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run
from tiny_run import adapter

from guided_ft.callback.resume import checkpoints, fault, newest_complete

TOOL = Path(__file__).parents[1] / "tools" / "kill_run.py"


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bits(tmp_path):
    """28 kills of eight ways of training; the tool kills more often with ``--long N``."""
    done = subprocess.run([sys.executable, str(TOOL), str(tmp_path)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    *ways, total = map(json.loads, done.stdout.splitlines())
    assert [way for way in ways if not (way["same bits"] and way["same figures"])] == []
    assert total["equal"] == 8
    # A moment can be over before it is seen, but not most of them.
    assert total["kills"] >= 24
    assert total["save"] >= 10
    assert total["localize"] >= 4
    assert total["cache"] >= 1


@pytest.mark.slow
def test_a_checkpoint_cut_at_any_file_is_never_resumed_from(tmp_path):
    from guided_ft import run

    whole = tiny_run.recipe(tmp_path, "whole", control="none")
    run(whole, quiet=True)
    asked = tiny_run.recipe(tmp_path, control="none")
    tiny_run.cut(asked)
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
    run(asked, quiet=True)
    assert adapter(tmp_path / "run") == adapter(tmp_path / "whole")
