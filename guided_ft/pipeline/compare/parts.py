"""The parts of the data: what trains, what rates are picked on, and what is tested; what is measured on them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from ...errors import GuidedError
from ...system.files import Json
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

    The last training rows are held back, those that ask something else; what asks the same as one of them is not
    trained on. Both are measured by the metrics of the whole run, as the model before is. Only the run that tests
    measures general text.

    Raises:
        GuidedError: if no row is left to train on.
    """
    questions: dict[str, Json] = {}
    for row in reversed(run.rows[0]):
        if len(questions) < validation:
            questions.setdefault(question_of(row), row)
    train = [row for row in run.rows[0] if questions.keys().isdisjoint(questions_in(row))]
    if not train or not questions:
        raise GuidedError(
            f"compare: data: of {len(run.rows[0])} training rows none is left beside {len(questions)} to pick rates on "
            "(give more rows)"
        )
    # "auto" looks at the rows: those of each part by themselves might suit another metric.
    metric = {"metric": "+".join(metrics_of(run))}
    held_back = list(questions.values())
    return _on(run, train, held_back, metric | {"retention": "none"}), _on(run, train, run.rows[1], metric)


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
