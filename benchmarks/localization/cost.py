"""CPU time of each method, relative to the plain pass."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from guided_ft import Task

from .rows import Rows
from .runs import EXACT, plain, runs
from .tasks import of_shape

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

SHAPES = {"16x5": (16, 5), "4x128": (4, 128)}
"""Rows and tokens of the batches that cost is measured on."""

SLOW = 4
"""What costs more plain passes than this is measured once, on the first shape only, but for what is exact."""


def cost(model: PreTrainedModel, rows: Rows, repeats: int, only: set[str]) -> None:
    for shape, size in SHAPES.items():
        task, against = of_shape(*size)
        wanted = {k: f for k, f in runs(model, task, against).items() if not only or k in only}
        todo = {k: f for k, f in wanted.items() if not rows.has(kind="cost", shape=shape, method=k)}
        if todo:
            plain(model, task)
        for label, run in todo.items():
            shorter = rows.find(kind="cost", shape=next(iter(SHAPES)), method=label)
            if label not in EXACT and shorter and shorter["ratio"] > SLOW:
                continue
            # The first one warms up, unless it takes so long that this is lost in it.
            pairs = [_pair(model, task, run)]
            if pairs[0][1] < SLOW * pairs[0][0]:
                pairs = [_pair(model, task, run) for _ in range(repeats)]
            ratios = [mine / base for base, mine in pairs]
            row = {
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "repeats": len(ratios),
            }
            rows.add(kind="cost", shape=shape, method=label, cpu_seconds=statistics.median(m for _, m in pairs), **row)


def _pair(model: nn.Module, task: Task, run: Callable[[], object]) -> tuple[float, float]:
    return seconds_of(lambda: plain(model, task)), seconds_of(run)


def seconds_of(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began
