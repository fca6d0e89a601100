"""Arms that train along directions, their controls, and full fine-tuning on a little of what is to be kept."""

from __future__ import annotations

import time
from typing import Any

from guided_ft.callback import GuidedCallback
from guided_ft.errors import GuidedError
from guided_ft.plan import Plan
from guided_ft.scorers.directions import localize_directions
from guided_ft.scorers.self_text import self_text
from guided_ft.selection.spend import select_directions

from .setup import Prepare, Setup, Trial

MAX_RANK = 64
"""Directions that are mapped per layer."""


def directed(strategy: str = "top", retain: str | None = "self", *, lam: float = 0.01) -> Prepare:
    """Map directions, spend the cell's budget on them, and train only along those.

    Args:
        strategy: of ``select_directions``.
        retain: what the map holds the task against; None: nothing.
        lam: as in ``localize_directions``.
    """

    def prepare(trial: Trial) -> Setup:
        cell = trial.cell
        found, before = _map(trial, retain, lam)
        wall, cpu = time.perf_counter(), time.process_time()
        chosen = select_directions(found, trial.parameters, strategy, seed=1000 * cell.seed + cell.draw)
        callback = GuidedCallback(Plan(chosen, "subspace"), learning_rate=None, prefix_cache="auto")
        spent = before[0] + time.perf_counter() - wall, before[1] + time.process_time() - cpu
        return Setup(trial.model, guided=callback, localize_seconds=spent[0], localize_cpu=spent[1])

    return prepare


def _map(trial: Trial, retain: str | None, lam: float) -> tuple[Any, tuple[float, float]]:
    """Return the map, and the wall and CPU seconds that it took when it was first wanted."""
    cell = trial.cell
    key = cell.task, cell.seed, cell.data_size, "directions", retain, lam
    if key not in trial.lab.maps:
        wall, cpu = time.perf_counter(), time.process_time()
        found = localize_directions(
            trial.model, trial.task(), retain, lam=lam, max_rank=MAX_RANK, seed=cell.seed, progress=False
        )
        trial.lab.maps[key] = found, (time.perf_counter() - wall, time.process_time() - cpu)
    return trial.lab.maps[key]


def mixed(share: float) -> Prepare:
    """Full fine-tuning on the task's rows, among which ``share`` is text that the base model sampled: the cheap answer
    to forgetting. The sampling counts as localization."""

    def prepare(trial: Trial) -> Setup:
        if trial.lab.suite.problems[trial.cell.task].is_preference:
            raise GuidedError("mixed: text has no place among pairs of answers")
        wall, cpu = time.perf_counter(), time.process_time()
        count = round(share / (1 - share) * len(trial.rows))
        key = "mixed", count, trial.cell.seed
        if key not in trial.lab.maps:
            task = self_text(trial.model, num_examples=count, num_tokens=64, seed=trial.cell.seed, progress=False)
            rows = [_split(trial.lab.tokenizer.decode(text.ids, skip_special_tokens=True)) for (text,) in task.examples]
            trial.lab.maps[key] = rows, (time.perf_counter() - wall, time.process_time() - cpu)
        rows, spent = trial.lab.maps[key]
        return Setup(trial.model, rows=trial.rows + rows, localize_seconds=spent[0], localize_cpu=spent[1])

    return prepare


def _split(text: str) -> dict[str, str]:
    """A text in the form of the task's rows: its first word is the prompt."""
    first, _, rest = text.strip().partition(" ")
    return {"prompt": first, "completion": f" {rest}"}
