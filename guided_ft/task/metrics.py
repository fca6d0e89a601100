"""What a model's logits say about an answer: the numbers that tasks are made of, one per sequence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from ..errors import GuidedError, pick
from .tokens import IGNORE

Metric = Callable[[torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor]
"""``metric(logits [rows, tokens, vocabulary], batch) -> [examples]``, higher is better."""

METRICS = {"loss": "the task's own loss", "logit_diff": "logit of the right less that of the wrong answer"}


def check_metric(metric: str | Metric) -> None:
    """Raise GuidedError for an unknown name, or a function that cannot be called as ``metric(logits, batch)``."""
    if not callable(metric):
        pick(METRICS, metric, "metric")
        return
    signature = inspect.signature(metric)
    try:
        signature.bind(None, None)
    except TypeError:
        raise GuidedError(
            f"metric: {metric_name(metric)}{signature} cannot be called as metric(logits, batch) (take these two)"
        ) from None


def metric_name(metric: str | Metric) -> str:
    return getattr(metric, "__qualname__", type(metric).__name__) if callable(metric) else metric


def answer_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed negative log-likelihood of the labels (nats): ``[rows, tokens, vocabulary], [rows, tokens] -> [rows]``."""
    nll = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none")
    return nll.view_as(labels).sum(1)


def logit_difference(logits: torch.Tensor, labels: torch.Tensor, wrong: torch.Tensor) -> torch.Tensor:
    """Logit of the label less that of the wrong token where there is one: ``-> [rows]`` (nats).

    It is also the difference of their log-probabilities, since the normalization cancels (Wang et al. 2022,
    arXiv 2211.00593, section 2).
    """
    at = wrong != IGNORE
    # Where nothing is asked, both gather token 0 and cancel.
    right, other = (logits.gather(-1, t.where(at, 0)[..., None])[..., 0] for t in (labels, wrong))
    return (right - other).sum(1)


def of_function(metric: Metric, logits: torch.Tensor, batch: Mapping[str, torch.Tensor], examples: int) -> torch.Tensor:
    """Call a metric of one's own. Raises GuidedError unless it returns one number per example."""
    value = metric(logits, batch)
    shape = tuple(getattr(value, "shape", ()))
    if shape != (examples,):
        raise GuidedError(
            f"metric: {metric_name(metric)} returned shape {shape} for {examples} examples (return one number for "
            "each, not their mean)"
        )
    return value
