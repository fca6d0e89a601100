"""A comparison of ways of training: what was measured, and which rates are picked. Imports no torch."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import GuidedError
from ..system.files import read_json
from .facts import lower_is_better, words

RECORD = "compare.json"

LIMIT = 0.1
"""Forgetting (nats a token) up to which the rest of the model counts as kept."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Point(_Strict):
    """One way of training at one rate; lists hold one value for each seed that ended.

    Args:
        rate: peak learning rate.
        seeds: those that ended.
        validation, score: of the metric, on validation and on test examples.
        validation_loss: on the right answers of the validation examples, where it was measured.
        forgetting: rise of the loss on general text (nats a token).
        seconds: of training alone.
        peak_bytes: of the process while it trained, libraries and base model included.
        file_bytes: of the weights that were saved.
        failed: why the other seeds did not end, one line each.
    """

    rate: float
    seeds: tuple[int, ...] = ()
    validation: tuple[float, ...] = ()
    validation_loss: tuple[float, ...] = ()
    score: tuple[float, ...] = ()
    forgetting: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    peak_bytes: tuple[int, ...] = ()
    file_bytes: int = 0
    failed: tuple[str, ...] = ()

    def mean(self, what: Literal["validation", "validation_loss", "score", "forgetting"]) -> float:
        return statistics.fmean(getattr(self, what))


class Way(_Strict):
    """One way of training, at all of its rates, from low to high.

    Args:
        name, label, colour: of the arm.
        control: the way that this is the random choice of, if it is one.
        trainable: parameters.
        localize_seconds: what its map took, once; 0 for a way that needs none.
        points: one for each rate that was asked for.
        note: why there are none, or fewer.
    """

    name: str
    label: str
    colour: str
    control: str = ""
    trainable: int = 0
    localize_seconds: float = 0.0
    points: tuple[Point, ...] = ()
    note: str = ""

    def ended(self) -> list[Point]:
        """The rates at which every seed ended."""
        return [point for point in self.points if point.seeds and not point.failed]

    def best(self, metric: str, limit: float | None = None) -> Point | None:
        """The rate with the best validation score; None if there is none.

        Few examples have few different scores. Among equals the lower loss on the same examples wins, where it was
        measured, and then the rate that forgets less.

        Args:
            limit: only among rates that forget at most so much.
        """
        sign = -1 if lower_is_better(metric) else 1
        kept = [point for point in self.ended() if limit is None or point.mean("forgetting") <= limit]
        by_loss = all(point.validation_loss for point in kept)

        def order(p: Point) -> tuple[float, float, float]:
            return sign * p.mean("validation"), -p.mean("validation_loss") if by_loss else 0.0, -p.mean("forgetting")

        return max(kept, key=order, default=None)

    def on_edge(self, point: Point) -> str:
        """``lowest`` or ``highest``, if it is the last rate on that side; else nothing."""
        rates = [p.rate for p in self.points]
        if len(rates) == 1:
            return ""
        return {min(rates): "lowest", max(rates): "highest"}.get(point.rate, "")


class Comparison(_Strict):
    """Everything that ``guided-ft compare`` found, as it is kept in ``compare.json``.

    Args:
        task: name and hash of the data.
        examples: how many of them ``train``, are for ``validation`` (rates are picked on them) and for the ``test``.
        mode: of the recipe, which what is located trains in.
        metric: what the scores are.
        base: score and loss on general text (nats a token) of the model before.
        quick: whether it was cut short to try it out.
        isolated: whether each way had a process of its own, so that the memory is its alone.
    """

    kind: Literal["comparison"] = "comparison"
    version: Literal[1] = 1
    name: str
    command: str
    model: str
    task: dict[str, str]
    examples: dict[str, int]
    trainer: str
    mode: str | None = None
    method: str
    budget: str
    steps: int
    metric: str
    base: dict[str, float]
    text: str
    seeds: tuple[int, ...]
    quick: bool = False
    isolated: bool = True
    limit: float = LIMIT
    ways: tuple[Way, ...]
    seconds: float = 0.0
    machine: str = ""
    versions: dict[str, str] = {}

    @classmethod
    def load(cls, path: Path) -> Comparison:
        """Read ``compare.json``. Raises GuidedError if it is damaged, or of another version."""
        data = read_json(path, "comparison")
        try:
            return cls(**data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise GuidedError(f"{path}: {where}: not what a comparison holds ({first['msg']})") from None

    @property
    def noun(self) -> str:
        """What the scores are, in words."""
        return words(self.metric)
