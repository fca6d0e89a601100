"""The first five scorers, and the tasks that they are tried on."""

from __future__ import annotations

import numpy as np
import tiny

from guided_ft.selection.scoremap import ScoreMap
from guided_ft.task.task import Task

METHODS = ("ablation", "attribution", "gradient", "magnitude", "random")


def task_of(count: int = 6, batch_size: int = 8, preference: bool = False) -> Task:
    rows = tiny.pairs(count) if preference else tiny.sums(count)
    return Task.from_dataset(rows, tiny.tokenizer(), batch_size=batch_size)


def same(a: ScoreMap, b: ScoreMap, tolerance: float = 1e-5) -> None:
    for kind in a.kinds:
        np.testing.assert_allclose(a.of(kind), b.of(kind), rtol=tolerance, atol=tolerance * np.abs(a.of(kind)).max())
