"""The table of a GPU can be made: its rows run on the CPU, and where there is no GPU it says so."""

from __future__ import annotations

import sys
import types

import gpu_rows
import numpy as np
import pytest

QUICK = ("merge, bfloat16", "scores", "flash attention")


def rows():
    for name, (needed, _) in gpu_rows.ROWS.items():
        if needed == 1:
            yield name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", rows())
def test_a_row_runs_on_the_cpu(name):
    fate, said, _ = gpu_rows.run(name, "cpu")
    assert fate == "ok", said


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_rows.py"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu_rows.main() == 2
    assert capsys.readouterr().err == "no GPU here (rehearse with --device cpu)\n"


def test_a_row_that_fails_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_rows.py", "--device", "cpu", "scores"])
    found = (types.SimpleNamespace(kinds=("head",), of=lambda kind, at=at: np.array([at])) for at in (1.0, 2.0))
    monkeypatch.setattr(gpu_rows, "localize", lambda *args, **options: next(found))
    assert gpu_rows.main() == 1
    assert capsys.readouterr().out.startswith("scores                         FAILED")
