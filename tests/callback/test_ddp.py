"""Two processes train and find what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import two_processes
from families import make
from trainers import MODES

from guided_ft.callback.resume import MARKER, fault
from guided_ft.system.arrays import read_arrays
from guided_ft.system.files import read_json, read_text


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A folder with the base model and what each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    make("llama").save_pretrained(folder / "base")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launch, two_processes.__file__, str(folder / "base"), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def both(folder: Path, name: str) -> list[dict[str, np.ndarray]]:
    return [read_arrays(folder / f"{name}-{rank}.safetensors") for rank in (0, 1)]


def check_same(one, first, second, *, atol: float) -> None:
    """Both processes found the same numbers, and those of one process."""
    assert set(one) == set(first) == set(second)
    for name, value in one.items():
        assert np.array_equal(first[name], second[name]), name
        np.testing.assert_allclose(first[name], value, atol=atol, err_msg=name)


@pytest.mark.slow
def test_two_processes_train_what_one_does(two, tmp_path):
    one, told = two_processes.train(two / "base", tmp_path, per_device=4)
    first, second = both(two, "train")
    plan = told.split(" ", 1)[0]
    assert [read_text(two / f"rank{rank}.txt").split(" ", 1)[0] for rank in (0, 1)] == [plan, plan]
    assert read_text(two / "rank1.txt").endswith("bit-identical 2")
    check_same(one, first, second, atol=1e-6)
    assert max(np.abs(value).max() for value in one.values()) > 1e-3
    checkpoint = two / "checkpoint-4"
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= read_json(checkpoint / MARKER, "checkpoint")["files"].keys()
    assert fault(checkpoint, plan) is None


@pytest.mark.slow
def test_two_processes_train_what_one_does_in_every_mode(two, tmp_path):
    """With gradient checkpointing and accumulated batches; directions and slices on pairs, too."""
    one = two_processes.ways(tmp_path, two / "base", per_device=4)
    first, second = both(two, "ways")
    assert {name.rsplit(" ", 1)[0] for name in one} == set(two_processes.WAYS)
    check_same(one, first, second, atol=1e-6)


@pytest.mark.slow
def test_a_loop_over_sharded_weights_trains_what_one_process_does(two):
    """FSDP2 in every mode: what is frozen and what trains lie in the same shards."""
    one = two_processes.loops()
    first, second = both(two, "loops")
    assert {name.split(" ")[0] for name in one} == set(MODES)
    check_same(one, first, second, atol=2e-6)
    assert min(np.abs(value).max() for value in one.values()) > 1e-3


@pytest.mark.slow
def test_a_trainer_that_spreads_the_weights_saves_what_one_process_does(two, tmp_path):
    """FSDP2 in a Trainer, in every mode: steps are looked at, nothing else moves, and files hold whole tensors."""
    one = two_processes.saved(tmp_path, per_device=4)
    first, second = both(two, "saved")
    assert {name.split(" ")[0] for name in one} == set(MODES)
    check_same(one, first, second, atol=1e-6)
    changes = [value for name, value in one.items() if name.endswith((".lora_B.weight", ".slice_delta.weight"))]
    assert min(np.abs(value).max() for value in changes) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("what", ["shares", "sharded"])
def test_two_processes_find_what_one_does(two, what):
    """Each takes half of the batches, and the sums are added up; of a sharded model both run all of them together."""
    one = getattr(two_processes, what)()
    first, second = both(two, what)
    assert set(one) == set(first) == set(second)
    for name, value in one.items():
        assert np.array_equal(first[name], second[name]), name
        np.testing.assert_allclose(first[name], value, rtol=1e-6, atol=1e-6 * np.abs(value).max(), err_msg=name)
