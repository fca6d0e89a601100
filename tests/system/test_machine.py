"""What a figure was measured on is told apart from what it was not measured on."""

from __future__ import annotations

import pytest
import torch

from guided_ft.system.machine import machine


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine is named after its GPU")
def test_processors_of_one_name_are_told_apart_by_their_instructions(monkeypatch):
    names = set()
    for capability in ("AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        names.add(machine())
    assert len(names) == 2
    assert all(name.split(" x ")[0].isdigit() for name in names)
