"""Arms that train along directions, their controls, and full fine-tuning on a little of what is to be kept."""

from __future__ import annotations

import time

from guided_ft.callback import GuidedCallback
from guided_ft.errors import GuidedError
from guided_ft.plan import Plan
from guided_ft.scorers.directions import localize_directions
from guided_ft.scorers.self_text import self_text
from guided_ft.selection.directions import DirectionMap
from guided_ft.selection.spend import select_directions

from ..arms.parts import Directed, LateDirected
from ..arms.ways import Mixed
from .setup import Setup, Trial


def directed(way: Directed, trial: Trial) -> Setup:
    """Map directions, choose some, and make ready to train only along those."""
    cell = trial.cell
    found, before = _map(way, trial)
    wall, cpu = time.perf_counter(), time.process_time()
    first = round(way.first * found.anatomy.num_layers) if isinstance(way, LateDirected) else 0
    seed = 1000 * cell.seed + cell.draw
    chosen = select_directions(found, trial.parameters, way.strategy, seed=seed, first_layer=first)
    callback = GuidedCallback(Plan(chosen, "subspace"), learning_rate=None, prefix_cache="auto")
    spent = before[0] + time.perf_counter() - wall, before[1] + time.process_time() - cpu
    return Setup(trial.model, guided=callback, localize_seconds=spent[0], localize_cpu=spent[1])


def _map(way: Directed, trial: Trial) -> tuple[DirectionMap, tuple[float, float]]:
    """Return the map, and the wall and CPU seconds that it took when it was first wanted."""
    cell = trial.cell
    key = cell.task, cell.seed, cell.data_size, "directions", cell.spent, way.retain, way.lam
    if key not in trial.lab.maps:
        wall, cpu = time.perf_counter(), time.process_time()
        found = localize_directions(
            trial.model, trial.task(), way.retain, lam=way.lam, budget=trial.parameters, seed=cell.seed, progress=False
        )
        trial.lab.maps[key] = found, (time.perf_counter() - wall, time.process_time() - cpu)
    return trial.lab.maps[key]


def mixed(way: Mixed, trial: Trial) -> Setup:
    """Make ready to train all weights on the task's rows and text of the base model. The sampling counts as
    localization.

    Raises GuidedError for pairs of answers.
    """
    if trial.lab.suite.problems[trial.cell.task].is_preference:
        raise GuidedError("mixed: text has no place among pairs of answers")
    wall, cpu = time.perf_counter(), time.process_time()
    count = round(way.share / (1 - way.share) * len(trial.rows))
    key = "mixed", count, trial.cell.seed
    if key not in trial.lab.maps:
        task = self_text(trial.model, num_examples=count, num_tokens=64, seed=trial.cell.seed, progress=False)
        rows = [
            _split(str(trial.lab.tokenizer.decode(list(text.ids), skip_special_tokens=True)))
            for (text,) in task.examples
        ]
        trial.lab.maps[key] = rows, (time.perf_counter() - wall, time.process_time() - cpu)
    rows, spent = trial.lab.maps[key]
    return Setup(trial.model, rows=trial.rows + rows, localize_seconds=spent[0], localize_cpu=spent[1])


def _split(text: str) -> dict[str, str]:
    """A text in the form of the task's rows: its first word is the prompt."""
    first, _, rest = text.strip().partition(" ")
    return {"prompt": first, "completion": f" {rest}"}
