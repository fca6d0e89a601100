"""What a model can do before and after: choices, preferences, and what it keeps of its old self."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from ..anatomy import base_model, original
from ..system.eval_mode import evaluating
from ..system.progress import track
from ..task.batching import model_inputs
from ..task.task import Task
from ..task.tokens import IGNORE
from .results import Reference, Retention

logger = logging.getLogger("guided_ft")

LOGITS = 1 << 26
"""Most logits at a time, 256 MiB in float32: of fifty long texts and a large vocabulary they are tens of GB."""


@torch.no_grad()
def losses(model: nn.Module, task: Task) -> torch.Tensor:
    """The task's quantity for each example, ``[examples]``: the loss per token in nats, or the margin of a pair."""
    device = next(model.parameters()).device
    with evaluating(model):
        return torch.cat([task.quantity(model, batch) for batch in _bounded(task, model).batches(device)])


def margins(model: nn.Module, task: Task) -> torch.Tensor:
    """Of each pair, by how many nats the model finds the chosen answer likelier than the rejected one, ``[pairs]``.

    A reference that the task has is left out: it is the model that is asked.
    """
    return losses(model, replace(task, reference=None))


def preference_accuracy(found: torch.Tensor) -> float:
    """Share of pairs whose chosen answer the model finds likelier than the rejected one, 0 to 100.

    Args:
        found: the model's ``margins``.
    """
    return 100 * float((found > 0).double().mean())


def reward_accuracy(found: torch.Tensor, before: torch.Tensor | None = None) -> float:
    """Share of pairs whose chosen answer the model prefers by more than the base does, 0 to 100; a tie is half of one.

    DPO's own accuracy (Rafailov et al. 2023, arXiv 2305.18290; TRL's ``rewards/accuracies``). Of long answers it shows
    what was learned where ``preference_accuracy`` does not: the longer one stays the less likely.

    Args:
        found: the model's ``margins``.
        before: the base's; None means that the model is the base.
    """
    gained = torch.zeros_like(found) if before is None else found - before.to(found.device)
    return 100 * float((gained.sign().double().mean() + 1) / 2)


@torch.no_grad()
def retention(
    model: nn.Module,
    text: Task,
    reference: Reference | None = None,
    progress: bool | None = None,
) -> Retention:
    """How far a model has drifted on general text.

    Args:
        text: what to read.
        reference: a context in which the base model can be asked; None means that the model is the base.

    Returns:
        ``loss``: mean negative log-likelihood per token (nats). ``kl``: mean KL(base || model) per token (nats).
    """
    text.check(model)
    text = _bounded(text, model)
    device = next(model.parameters()).device
    loss = kl = tokens = 0.0
    for batch in track(text.batches(device), text.num_batches(), "retention", progress):
        labels = batch["labels"][:, 1:]
        scored = labels != IGNORE
        log_p = _log_probabilities(model, batch, scored)
        loss += float(F.nll_loss(log_p, labels[scored], reduction="sum"))
        if reference is not None:
            with reference() as base:
                log_q = _log_probabilities(base, batch, scored)
            kl += float(F.kl_div(log_p, log_q, reduction="sum", log_target=True))
        tokens += int(scored.sum())
    return {"loss": loss / tokens, "kl": kl / tokens}


def _log_probabilities(model: nn.Module, batch: dict[str, torch.Tensor], scored: torch.Tensor) -> torch.Tensor:
    """Of the tokens that are scored, ``[tokens, vocabulary]``."""
    with evaluating(model):
        logits = model(**model_inputs(batch), use_cache=False).logits
    return logits[:, :-1][scored].float().log_softmax(-1)


def _bounded(task: Task, model: nn.Module) -> Task:
    """The task in batches of no more than ``LOGITS`` logits, as long as one example has no more."""
    vocabulary = original(base_model(model).get_input_embeddings()).num_embeddings
    tokens = max(sum(len(sequence.ids) for sequence in example) for example in task.examples)
    return replace(task, batch_size=max(1, min(task.batch_size, LOGITS // (tokens * vocabulary))))
