"""Train for long, and run often, in one process: does memory grow, or the number of open files?

    python tests/tools/soak.py [--steps N] [--runs N] [--record]

First one training of 2,000 steps, with a prefix cache that is too small, so that the oldest states make room, and a
localization of the model that trains every 20 steps. Then 50 whole runs, one after the other. Prints what both cost;
``--record`` keeps it in ``tests/results/soak.json``. Ends with 1 if anything grew. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import tiny
import tiny_run
import torch
from datasets import Dataset
from memory_run import status
from prefixes import model_of, plan_of, settings
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from guided_ft import GuidedCallback, Task, localize, run

STEPS, EVERY, RUNS = 2_000, 20, 50
ROWS = 1_200
"""Whose states are more than the cache holds."""

MOST = 1.0
"""MB that 100 steps, or one run, may grow by."""


class Gauge:
    """Memory in MB and open files, by how much was done: ``points`` of ``(done, memory, files)``."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float, int]] = []

    def read(self, done: int) -> None:
        gc.collect()
        # What was freed and kept for later is no leak.
        ctypes.CDLL(None).malloc_trim(0)
        self.points.append((done, status("VmRSS") / 1e6, len(os.listdir("/proc/self/fd"))))

    def slope(self, warm: float = 0.3) -> float:
        """MB per unit of what was done, by least squares, without the first share of the points."""
        kept = self.points[int(warm * len(self.points)) :]
        return float(np.polyfit([p[0] for p in kept], [p[1] for p in kept], 1)[0])

    def files(self, warm: float = 0.3) -> int:
        """How many open files there are more at the end than after the warm-up."""
        return self.points[-1][2] - self.points[int(warm * len(self.points))][2]


class Looks(TrainerCallback):
    """Localizes the model while it trains, and reads the gauge every five times."""

    def __init__(self, every: int, gauge: Gauge) -> None:
        self.every, self.gauge, self.times = every, gauge, 0
        self.task = Task.from_dataset(tiny.sums(4), tiny.tokenizer())

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            localize(model, self.task, retain=None, progress=False)
            self.times += 1
            if self.times % 5 == 0:
                self.gauge.read(state.global_step)


def training(folder: Path, steps: int, every: int, rows: int = ROWS) -> tuple[Gauge, dict[str, int]]:
    """One long training; how often it localized, and how many states the cache had to give up."""
    model, gauge = model_of("llama"), Gauge()
    callback, looks = GuidedCallback(plan_of(model), prefix_cache="1MB", learning_rate=None), Looks(every, gauge)
    options = {"max_steps": steps, "learning_rate": 1e-3, "logging_steps": 100, "gradient_checkpointing": False}
    trainer = SFTTrainer(
        model,
        args=SFTConfig(**settings(folder, **options), bf16=False, max_length=32, pad_to_multiple_of=32),
        train_dataset=Dataset.from_list(tiny.sums(rows)),
        processing_class=tiny.tokenizer(),
        callbacks=[callback, looks],
    )
    trainer.train()
    assert callback.certificate.ok
    # Every row beyond its first time that is computed again was stored once, and had to make room.
    return gauge, {"localizations": looks.times, "evicted": callback.engine.summary()["misses"] - rows}


def repeated(act: Callable[[int], object], times: int) -> Gauge:
    """Do something again and again."""
    gauge = Gauge()
    for i in range(times):
        act(i)
        gauge.read(i)
    return gauge


def runs(folder: Path, times: int) -> Gauge:
    """Whole runs, each in a folder of its own."""
    small = {"control": "none", "evaluate": {"retention": "none"}, "train": {"steps": 2, "save_steps": 1}}
    return repeated(lambda i: run(tiny_run.recipe(folder, f"run-{i}", **small), quiet=True), times)


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--runs", type=int, default=RUNS)
    options.add_argument("--record", action="store_true", help="keep the figures in tests/results")
    asked = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        long, did = training(Path(name) / "long", asked.steps, EVERY)
        print(json.dumps({"long": long.points}), flush=True)
        many = runs(Path(name), asked.runs)
        print(json.dumps({"many": many.points}), flush=True)
    grown = {"MB per 100 steps": 100 * long.slope(), "MB per run": many.slope()}
    files = {"files after steps": long.files(), "files after runs": many.files()}
    found = {"steps": asked.steps, **did, "runs": asked.runs, **files}
    found |= {"memory": "; ".join(f"{value:.3f} {what}" for what, value in grown.items())}
    print(json.dumps(found))
    if asked.record:
        import figures

        figures.write("soak", "python tests/tools/soak.py --record", found)
    return int(max(grown.values()) > MOST or max(files.values()) > 0)


if __name__ == "__main__":
    sys.exit(main())
