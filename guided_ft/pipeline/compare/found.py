"""From the results of the cells to the record of a comparison."""

from __future__ import annotations

import shlex
from pathlib import Path

from ...report.comparison import Comparison, Point, Way
from ...system.files import Json
from ...system.machine import machine, versions
from .arms import ARMS
from .asked import Asked, rate_of
from .base import Base
from .cell import Cell

FALLBACK = "loss"
"""What is compared where no answer is right, before or after any training: the loss on the right answers."""


def comparison(
    asked: Asked, base: Base, home: Path, notes: dict[str, str], isolated: bool, seconds: float
) -> Comparison:
    """Put the cells together that were asked for.

    Args:
        notes: why an arm has fewer cells than were asked for.
        seconds: of this call.
    """
    results = {
        Cell(arm, rate, seed): Cell(arm, rate, seed).result(home, base)
        for arm in asked.arms
        for rate in _rates(asked, base, arm)
        for seed in asked.seeds
    }
    done = {cell: result for cell, result in results.items() if result is not None}
    metric = metric_of(base, [result for result in done.values() if not result["failed"]])
    recipe, seeds = base.settled, len(asked.seeds)
    ways = []
    for arm in asked.arms:
        row, known = ARMS[arm], base.arms[arm]
        points = [
            _point(rate, metric, base, {c.seed: r for c, r in done.items() if (c.arm, c.rate) == (arm, rate)}, seeds)
            for rate in _rates(asked, base, arm)
        ]
        way = Way(
            name=arm,
            label=row.label.format(mode=recipe.train.mode),
            colour=row.colour,
            trainable=known.trainable,
            control=row.control or "",
            localize_seconds=known.localize_seconds,
            points=tuple(points),
            note=notes.get(arm, known.note),
        )
        ways.append(way)
    return Comparison(
        name=asked.recipe.name,
        command=command(asked, home),
        model=recipe.model,
        task=base.task,
        examples=base.examples,
        trainer=recipe.train.trainer,
        mode=recipe.train.mode,
        method=base.method,
        budget=str(recipe.select.budget),
        steps=base.steps,
        metric=metric,
        base={"score": base.before[metric], "loss": base.loss, "parameters": float(base.total)},
        text=recipe.evaluate.retention,
        seeds=asked.seeds,
        quick=asked.quick,
        isolated=isolated,
        ways=tuple(ways),
        seconds=seconds,
        machine=machine(),
        versions=versions(),
    )


def metric_of(base: Base, results: list[Json]) -> str:
    """What was trained for, unless that is the same everywhere, as for answers of many words: then their loss."""
    first = next(iter(base.before))
    seen = {base.before[first], *(result[part][first] for result in results for part in ("validation", "test"))}
    return FALLBACK if len(seen) == 1 and FALLBACK in base.before else first


def command(asked: Asked, home: Path) -> str:
    """What to type for the same comparison, from the recipe that is kept in its folder."""
    words = [f"arms={','.join(asked.arms)}", f"rates={','.join(asked.rates)}"]
    words += [f"seeds={','.join(map(str, asked.seeds))}", *(["--quick"] if asked.quick else [])]
    return shlex.join(["guided-ft", "compare", str(home / "recipe.yaml"), *words])


def _rates(asked: Asked, base: Base, arm: str) -> list[float]:
    known = base.arms[arm]
    return [] if known.note else sorted({rate_of(text, known.rule) for text in asked.rates})


def _point(rate: float, metric: str, base: Base, found: dict[int, Json], seeds: int) -> Point:
    ended = {seed: result for seed, result in sorted(found.items()) if not result["failed"]}
    results = list(ended.values())
    missing = ["not run"] if len(found) < seeds else []
    return Point(
        rate=rate,
        seeds=tuple(ended),
        validation=tuple(result["validation"][metric] for result in results),
        validation_loss=tuple(result["validation"][FALLBACK] for result in results if FALLBACK in result["validation"]),
        score=tuple(result["test"][metric] for result in results),
        forgetting=tuple(result["retention"]["loss"] - base.loss for result in results),
        seconds=tuple(result["training_seconds"] for result in results),
        peak_bytes=tuple(result["peak_bytes"] for result in results),
        file_bytes=max((result["file_bytes"] for result in results), default=0),
        failed=tuple(dict.fromkeys([*(r["failed"] for r in found.values() if r["failed"]), *missing])),
    )
