"""Many processes train what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from families import make

from guided_ft.callback.checkpoint import MARKER, fault
from guided_ft.system.files import read_arrays, read_json, read_text


def _launch(script: str, processes: int, *arguments: str) -> None:
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launch, str(Path(__file__).parents[1] / "tools" / script), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def _run(folder: Path, name: str, processes: int, per_device: int) -> None:
    _launch("ddp_run.py", processes, str(folder / "base"), str(folder / name), str(per_device))


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    make("llama").save_pretrained(tmp_path / "base")
    _run(tmp_path, "one", 1, 4)
    _run(tmp_path, "two", 2, 2)
    one, *two = (
        read_arrays(tmp_path / n) for n in ("one/rank0.safetensors", "two/rank0.safetensors", "two/rank1.safetensors")
    )
    plan = read_text(tmp_path / "two" / "rank0.txt").split(" ", 1)[0]
    assert read_text(tmp_path / "two" / "rank1.txt").split(" ", 1)[0] == plan
    assert read_text(tmp_path / "one" / "rank0.txt").split(" ", 1)[0] == plan
    assert read_text(tmp_path / "two" / "rank1.txt").endswith("bit-identical 2")
    assert set(one) == set(two[0]) == set(two[1])
    for name, value in one.items():
        assert np.array_equal(two[0][name], two[1][name]), name
        np.testing.assert_allclose(two[0][name], value, atol=1e-6, err_msg=name)
    assert max(np.abs(value).max() for value in one.values()) > 1e-3
    checkpoint = tmp_path / "two" / "checkpoint-4"
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= read_json(checkpoint / MARKER, "checkpoint")["files"].keys()
    assert fault(checkpoint, plan) is None


@pytest.mark.slow
@pytest.mark.parametrize("script", ["ddp_scores.py", "fsdp_scores.py"])
def test_two_processes_find_what_one_does(tmp_path, script):
    """Each takes half of the batches, and the sums are added up; of a sharded model both run all of them together."""
    _launch(script, 1, str(tmp_path))
    _launch(script, 2, str(tmp_path))
    one, *two = (read_arrays(tmp_path / f"{n}.safetensors") for n in ("rank0of1", "rank0of2", "rank1of2"))
    assert set(one) == set(two[0]) == set(two[1])
    for name, value in one.items():
        assert np.array_equal(two[0][name], two[1][name]), name
        np.testing.assert_allclose(two[0][name], value, rtol=1e-6, atol=1e-6 * np.abs(value).max(), err_msg=name)
