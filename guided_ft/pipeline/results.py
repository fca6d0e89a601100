"""What each stage of a run finds, as it lies in the run folder: JSON objects with known keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import nn

    from ..engine.engine import CacheSummary
    from ..selection.scoremap import Meta

Reference = Callable[[], "AbstractContextManager[nn.Module]"]
"""A context in which the base model can be asked."""

Curve = list[list[float]]
"""``[[step, value], ...]``"""


class Retention(TypedDict):
    """Nats per token of general text: its loss, and how far the answers to it have moved from the base's."""

    loss: float
    kl: float


class Measured(TypedDict):
    """``scores``: metrics by name, 0 to 100 or nats, and the number of ``examples``; the first ``answers``."""

    scores: dict[str, float]
    retention: Retention | None
    answers: list[str]


class Reload(TypedDict):
    """The largest difference of logits between the trained model and the one that was saved."""

    max_difference: float


class After(Measured):
    """The trained model, loaded from disk."""

    reload: Reload


class Localized(TypedDict):
    """A map: how it was made, a digest of the task, ``messages`` or ``text``, and how many components of each kind."""

    meta: Meta
    hash: str
    form: str
    sizes: dict[str, int]


class Chosen(TypedDict):
    """What the budget bought: components by kind, parameters, of how many, in how many modules."""

    counts: dict[str, int]
    trainable: int
    total: int
    modules: int


class Frozen(TypedDict):
    """How many of the frozen tensors are bit-identical after training."""

    identical: int
    total: int


class Trained(TypedDict):
    """A training: its curves, what it was told, how long it took."""

    loss: Curve
    reward: Curve
    frozen: Frozen
    learning_rate: float
    seconds: float
    prefix: CacheSummary
    resumed_from: str | None
    trainable: int


class Controlled(TypedDict):
    """The results of the control, whose components are drawn at random."""

    plan: Chosen
    train: Trained
    after: After


class Results(TypedDict):
    """The results of all stages; ``control`` is empty where none was asked for."""

    before: Measured
    localize: Localized
    select: Chosen
    train: Trained
    evaluate: After
    control: Controlled
