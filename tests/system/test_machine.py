"""What a figure was measured on is told apart from what it was not measured on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from guided_ft.system.machine import give_back, machine


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine is named after its GPU")
def test_processors_of_one_name_are_told_apart_by_their_instructions(monkeypatch):
    names = set()
    for capability in ("AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        names.add(machine())
    assert len(names) == 2
    assert all(name.split(" x ")[0].isdigit() for name in names)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_is_free_is_given_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [bytes(2000) for _ in range(100_000)]
    last = blocks[-1]  # what lies above the others keeps the system's own trimming away
    before = resident()
    del blocks
    give_back()
    assert before - resident() > 100e6
    assert len(last) == 2000
