"""How long each recipe takes on one CPU core: measured where it was run in full, else estimated. Imports no torch.

An estimate counts the tokens that are trained on, read and written, by the characters of the rows, and takes what a
token costs on SmolLM2-135M; all estimates are then scaled by what was measured.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable
from typing import Any

from guided_ft.pipeline.data import load_rows
from guided_ft.pipeline.hub import on_sample
from guided_ft.recipe.recipe import Recipe, shipped

from .full import Job, seconds

CHARACTERS = 3.5
"""Of a token."""

TRAINED, READ, WRITTEN = 5e-3, 2e-3, 8e-3
"""Seconds a token on one core: forward and backward, forward, and one at a time in a batch."""

FIXED = 120.0
"""Seconds: libraries, and the model loaded for each stage."""


def estimated(job: Job) -> float:
    """Seconds of a recipe with its control, roughly."""
    recipe = Recipe.load(job.name, job.overrides)
    train, data = recipe.train, recipe.data
    if data.source == "hub":
        data = on_sample(data)
    rows, test = load_rows(data, recipe.seed, train.trainer)
    length = statistics.mean(min(train.max_length, _tokens(row)) for row in rows)
    answer = statistics.mean(min(train.max_length, _answer(row)) for row in rows)
    shown = train.steps * train.batch_size * train.accumulate * length
    learning = shown * TRAINED
    if train.trainer == "dpo":
        learning += shown * READ  # the reference; both answers are in the row
    if train.trainer == "grpo":
        learning += shown * READ + train.steps * train.batch_size * answer * WRITTEN
    asking = len(test) * (length * READ + answer * WRITTEN * ("accuracy" in recipe.evaluate.metric))
    if "f1" in recipe.evaluate.metric:
        asking = 4 * len(test) * length * READ
    scoring = 2 * recipe.localize.examples * length * TRAINED
    runs = 1 + (recipe.control == "random")
    return FIXED + scoring + runs * learning + (1 + runs) * asking


def _tokens(row: dict[str, Any]) -> float:
    return len(str(list(row.values()))) / CHARACTERS


def _answer(row: dict[str, Any]) -> float:
    return len(str(row.get("completion") or row.get("chosen") or "")) / CHARACTERS


def times(rows: Iterable[dict[str, Any]], job_of: Callable[[str], Job] = Job) -> str:
    """The table ``recipes/times.csv``: minutes of each shipped recipe on one core, and whether they were measured."""
    whole = {row["recipe"]: row for row in rows if row["run"] and not row["changes"] and row["threads"] == 1}
    measured = {name: seconds(row) for name, row in whole.items() if name in shipped()}
    guessed = {name: estimated(job_of(name)) for name in shipped()}
    scale = statistics.median([measured[name] / guessed[name] for name in measured] or [1.0])
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["recipe", "minutes", "measured"])
    for name in shipped():
        told = measured.get(name, scale * guessed[name])
        table.writerow([name, max(1, round(told / 60)), "yes" if name in measured else "no"])
    return text.getvalue()
