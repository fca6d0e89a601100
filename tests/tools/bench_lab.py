"""What the tests of the benchmark's runs share."""

from __future__ import annotations

from benchmarks.side_by_side.arms.arms import ARMS
from benchmarks.side_by_side.suites.cell import Cell
from guided_ft.task.task import Task


def no_text(tokenizer):
    return Task.from_dataset([{"text": f"{i} and {i + 1}"} for i in range(9)], tokenizer)


def cell(arm, task="sums", lr=1e-2, budget=5.0, phase="sweep", draw=0):
    budget = budget if ARMS[arm].budgeted else None
    return Cell("testbed", "tiny", task, arm, budget, lr, 0, draw, 12, 4, phase)
