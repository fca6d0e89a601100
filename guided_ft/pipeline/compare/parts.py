"""The parts of the data: what trains, what rates are picked on, and what is tested; what is measured on them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from ...errors import GuidedError
from ...task.given import Row
from ..data import question_of, questions_in
from ..measure import METRICS, Held, measure, metrics_of
from ..results import Reference
from ..stages import Run

if TYPE_CHECKING:
    from torch import nn

LOSS = "loss"
"""Measured too, where rows have answers: it moves where no answer is right yet (nats a token)."""


def parts(run: Run, validation: int) -> tuple[Run, Run]:
    """The run as it is validated and as it is tested: each has its own rows to test on, and the same to train on.

    Both are measured by the metrics of the whole run, as the model before is. Only the run that tests measures general
    text.

    Args:
        validation: questions to hold back.

    Raises:
        GuidedError: if no row is left to train on.
    """
    train, held_back, _ = apart(run.rows[0], validation)
    # "auto" looks at the rows: those of each part by themselves might suit another metric.
    metric = {"metric": "+".join(metrics_of(run))}
    return _on(run, train, held_back, metric | {"retention": "none"}), _on(run, train, run.rows[1], metric)


def apart(rows: list[Row], validation: int) -> tuple[list[Row], list[Row], int]:
    """Rows to train on, rows to validate on, and how many of the first rows all train.

    The questions that come up last are held back, each with its last row, so that the map, which is made from the first
    rows, may see as many as can be. Whatever shows the answer to one of them is not trained on.

    Args:
        validation: questions to hold back.

    Raises:
        GuidedError: if no row is left to train on, or none to validate on.
    """
    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        for question in questions_in(row):
            first.setdefault(question, i)
    last = {question_of(row): i for i, row in enumerate(rows)}
    newest = sorted(last, key=lambda question: (first[question], last[question]), reverse=True)
    held = {question: rows[last[question]] for question in newest[:validation]}
    shown = min((first[question] for question in held), default=0)
    if not shown:
        raise GuidedError(
            f"compare: data: of {len(rows)} training rows none is left beside {len(held)} to pick rates on (give more "
            "rows)"
        )
    train = [row for row in rows if held.keys().isdisjoint(questions_in(row))]
    return train, list(held.values()), shown


def _on(run: Run, train: list[dict], test: list[dict], evaluate: dict[str, str]) -> Run:
    """The run with other rows, and with some settings of ``evaluate``."""
    settings = run.recipe.to_dict()
    settings["evaluate"] |= evaluate
    view = copy.copy(run)
    # What was worked out from other rows goes.
    vars(view).pop("answer_length", None)
    vars(view).update(recipe=type(run.recipe).from_dict(settings), rows=(train, test))
    return view


def measured(view: Run, model: nn.Module, reference: Reference | None) -> tuple[dict[str, float], dict[str, float]]:
    """Scores by metric, the recipe's first one first, and what is left of general text (``loss``, ``kl``), if asked."""
    found = measure(view, view.rows[1], model, reference)
    kept = found["retention"]
    return with_loss(view, found["scores"], model), {"loss": kept["loss"], "kl": kept["kl"]} if kept else {}


def with_loss(view: Run, scores: dict[str, float], model: nn.Module) -> dict[str, float]:
    """Scores without the count of examples, and with ``LOSS`` where rows have answers."""
    whole = {name: float(value) for name, value in scores.items() if name != "examples"}
    if LOSS not in whole and "chosen" not in view.rows[1][0]:
        whole[LOSS] = METRICS[LOSS][1](Held(view, view.rows[1], model))
    return whole
