"""What the tests of the benchmark's runs share."""

from __future__ import annotations

from pathlib import Path

import tiny
from families import make

from benchmarks.side_by_side.arms.arms import ARMS
from benchmarks.side_by_side.suites import suite
from benchmarks.side_by_side.suites.cell import Cell
from guided_ft.task.task import Task


def no_text(tokenizer):
    return Task.from_dataset([{"text": f"{i} and {i + 1}"} for i in range(9)], tokenizer)


def lab_of(family: str, folder: Path) -> suite.Lab:
    """A tiny random model that is asked for sums and pairs."""
    make(family, layers=4).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    small = suite.Suite(
        name="testbed",
        model=lambda: str(folder),
        problems={
            "sums": suite.Problem(lambda n, seed: (tiny.sums(n), tiny.sums(40)[32:], tiny.sums(50)[40:]), new_tokens=4),
            "pairs": suite.Problem(lambda n, seed: (tiny.pairs(n), tiny.pairs(40)[32:], tiny.pairs(50)[40:]), 0),
        },
        held_out=no_text,
        old_skills=lambda lab, model: 25.0,
        campaigns=(),
        batch_size=4,
        max_length=64,
        examples=8,
    )
    return suite.Lab(small)


def cell(arm, task="sums", lr=1e-2, budget=5.0, phase="sweep", draw=0):
    budget = budget if ARMS[arm].budgeted else None
    return Cell("testbed", "tiny", task, arm, budget, lr, 0, draw, 12, 4, phase)
