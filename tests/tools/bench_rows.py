"""Made-up rows of the benchmark: complete, and as far apart as a test asks for."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def curve(end: float, forgetting: float, seconds: float, steps: int = 100, base: float = 5.0) -> list[dict[str, Any]]:
    """A run that learns quickly at first and forgets ever faster."""
    return [
        {
            "step": round(steps * x),
            "score": round(base + (end - base) * (1 - (1 - x) ** 2), 3),
            "forgetting": round(forgetting * x * x, 6),
            "seconds": round(seconds * x, 3),
        }
        for x in (0, 0.2, 0.4, 0.6, 0.8, 1)
    ]


def row(**changes: Any) -> Row:
    """A complete row; ``curve`` follows from score, forgetting and seconds unless it is given."""
    made: Row = {
        "suite": "testbed",
        "model": "llama-4m",
        "task": "reversal",
        "arm": "full",
        "budget": None,
        "lr": 1e-3,
        "seed": 0,
        "draw": 0,
        "data_size": 300,
        "steps": 100,
        "score": 80.0,
        "validation": 79.0,
        "forgetting": 0.1,
        "kl": 0.05,
        "old_skills": 60.0,
        "base_old_skills": 65.0,
        "seconds": 20.0,
        "localize_seconds": 0.0,
        "cpu_seconds": 19.0,
        "step_seconds": 0.2,
        "peak_bytes": 400_000_000,
        "trainable": 4_000_000,
        "fraction": 100.0,
        "adapter_bytes": 16_000_000,
        "machine": "2 x test processor",
        "weights": "0123456789abcdef",
        "versions": {"python": "3.11", "guided_ft": "0.1.0"},
        "phase": "main",
        "mode": "full",
        "method": None,
        "strategy": None,
        "kinds": [],
        "control": False,
        "configuration": "00000000",
    } | changes
    made.setdefault("curve", curve(made["score"], made["forgetting"] or 0.0, made["seconds"], made["steps"]))
    return made


PLAN: dict[str, tuple[float, float, float, bool]] = {
    # arm: score, forgetting, seconds, whether it has a budget
    "full": (82, 0.20, 20, False),
    "lora": (80, 0.12, 14, True),
    "lora:qv": (74, 0.15, 13, True),
    "rslora": (80, 0.14, 14, True),
    "dora": (80, 0.12, 18, True),
    "shira": (76, 0.06, 15, True),
    "ia3": (40, 0.01, 12, False),
    "lisa": (78, 0.10, 13, False),
    "top-layers": (60, 0.05, 9, True),
    "guided": (81, 0.03, 11, True),
    "guided:one-sided": (79, 0.30, 11, True),
    "guided:two-sided": (78, 0.02, 11, True),
    "guided:coherence": (77, 0.03, 11, True),
    "guided:late": (70, 0.02, 7, True),
    "random": (73, 0.07, 10, True),
    "random:late": (74, 0.06, 10, True),
    "bottom": (65, 0.03, 10, True),
    "magnitude": (70, 0.10, 10, True),
    "shuffled": (72, 0.06, 10, True),
    "wrong-task": (72, 0.09, 10, True),
}


def benchmark(
    seeds: int = 5,
    draws: int = 5,
    budgets: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    sizes: tuple[int, ...] = (50, 100, 300, 1000),
    arms: tuple[str, ...] = tuple(PLAN),
    suite: str = "testbed",
    task: str = "reversal",
) -> list[Row]:
    """A benchmark as it might come out: locating helps at small budgets and few examples, and is a tie elsewhere."""
    noise = random.Random(0)
    same = {"suite": suite, "task": task}
    rows = [row(arm="base", lr=0.0, score=5.0, forgetting=0.0, seconds=0.0, data_size=0, steps=0, curve=[], fraction=0.0,
                trainable=0, adapter_bytes=None, step_seconds=None, old_skills=65.0, kl=0.0, cpu_seconds=0.0, **same)]  # fmt: skip
    for arm in arms:
        score, forgetting, seconds, budgeted = PLAN[arm]
        controls = arm.split(":")[0] == "random"
        for size in sizes:
            for budget in budgets if budgeted else (None,):
                # A run learns more with more examples and, up to a point, more parameters.
                power = 1 if budget is None else min(1, 0.55 + 0.15 * (2 + _decades(budget)))
                worth = 1 if size >= 300 else 0.85 if size >= 100 else 0.7
                gain = 6 * (1 - power) * (2 - worth) if arm.split(":")[0] == "guided" else 0
                for seed in range(seeds):
                    level = noise.gauss(0, 1.5)
                    for draw in range(draws if controls else 1):
                        got = min(99.0, max(5.5, score * power * worth + gain + level + noise.gauss(0, 1)))
                        lost = forgetting * (power if budget else 1) * noise.uniform(0.7, 1.4)
                        rows.append(
                            row(
                                arm=arm, budget=budget, seed=seed, draw=draw, data_size=size, score=round(got, 2),
                                validation=round(got - 1, 2), forgetting=round(lost, 5), kl=round(lost / 2, 5),
                                seconds=round(seconds * noise.uniform(0.95, 1.05), 2),
                                localize_seconds=1.0 if arm.startswith("guided") else 0.0,
                                cpu_seconds=float(seconds), step_seconds=seconds / 100,
                                peak_bytes=400_000_000 if arm == "full" else 180_000_000,
                                fraction=budget or (100.0 if arm != "ia3" else 0.02),
                                trainable=round(40_000 * (budget or 100)),
                                adapter_bytes=round(160_000 * (budget or 100)), **same,
                            )
                        )  # fmt: skip
                for power_of_ten, factor in ((-4, 0.8), (-3, 1.0), (-2, 0.9)):
                    rows.append(
                        row(arm=arm, budget=budget, lr=10.0**power_of_ten, data_size=size, phase="sweep",
                            score=round(score * power * factor, 2), validation=round(score * power * factor, 2), **same)
                    )  # fmt: skip
    return rows


def _decades(budget: float) -> float:
    """How far above 0.01 %, up to 3 decades."""
    return sum(budget >= edge for edge in (0.01, 0.03, 0.1, 0.3)) - 2


def results(folder: Path, rows, suite="testbed") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{suite}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder
