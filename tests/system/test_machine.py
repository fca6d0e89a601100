"""What a figure was measured on is told apart from what it was not measured on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from guided_ft.system import machine as machine_module
from guided_ft.system.machine import give_back, machine, peak_bytes


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine is named after its GPU")
def test_processors_of_one_name_are_told_apart_by_their_instructions(monkeypatch):
    names = set()
    for capability in ("AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        names.add(machine())
    assert len(names) == 2
    assert all(name.split(" x ")[0].isdigit() for name in names)


ALONE = """
import sys, types
# A process without torch: small, and soon there.
sys.modules["torch"] = types.SimpleNamespace(cuda=types.SimpleNamespace(is_initialized=lambda: False))
from guided_ft.system.machine import peak_bytes
print(peak_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process does not inherit the peak of another")
def test_the_peak_is_that_of_the_process_itself_however_large_the_one_that_started_it() -> None:
    held = b"1" * 500_000_000
    told = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert len(held) == 500_000_000
    assert 1e6 < int(told.stdout) < 200e6


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


def test_what_only_posix_has_is_not_needed() -> None:
    room = Path(machine_module.__file__).parent
    names = sorted(f"guided_ft.system.{path.stem}" for path in room.glob("*.py") if path.stem != "__init__")
    script = "import importlib, sys\nfor name in ('fcntl', 'grp', 'pwd', 'resource', 'termios'):\n"
    script += f"    sys.modules[name] = None\nfor name in {names}:\n    importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_getrusage_the_system_is_asked_for_the_peak(monkeypatch) -> None:
    def missing(*_args, **_kwargs):
        raise FileNotFoundError

    told = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=7 << 20))
    monkeypatch.setattr(machine_module, "resource", None)
    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(psutil, "Process", lambda: told)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert peak_bytes() == 7 << 20
