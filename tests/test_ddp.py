"""Many processes train what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from families import make

from guided_ft.artifact import read_arrays, read_text


def _run(folder: Path, name: str, processes: int, per_device: int) -> None:
    script = Path(__file__).parent / "ddp_run.py"
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launch, str(script), str(folder / "base"), str(folder / name), str(per_device)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


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
