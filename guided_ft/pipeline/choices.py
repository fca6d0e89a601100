"""Which of several answers a model finds likeliest: what they all follow is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..system.eval_mode import evaluating
from ..task.batching import pad_rows
from ..task.metrics import answer_nll
from ..task.task import Task
from ..task.tokens import IGNORE, Tokens
from .evaluate import losses

TOLERANCE = 1e-3
"""Largest difference of losses (nats a token) between reading a prompt once and reading it with each answer."""


@torch.no_grad()
def likeliest(model: nn.Module, tasks: Sequence[Task]) -> list[int]:
    """For each example the task, out of several with one example each, whose answer is likeliest per token."""
    with evaluating(model):
        return answer_losses(model, tasks).argmin(0).tolist()


def answer_losses(model: nn.Module, tasks: Sequence[Task]) -> torch.Tensor:
    """The mean loss of each answer of each example, ``[tasks, examples]`` (nats a token).

    On the first example it is worked out both ways; where they differ, or the model keeps no keys and values that could
    be handed on, whole sequences are read.
    """
    together = [[task.examples[i][0] for task in tasks] for i in range(len(tasks[0]))]
    first = _after_prompt(model, together[0])
    if first is None or not (first - _whole(model, [task.take(1) for task in tasks])[:, 0]).abs().max() <= TOLERANCE:
        return _whole(model, tasks)
    found = [first]
    for sequences in together[1:]:
        each = _after_prompt(model, sequences)
        if each is None:
            return _whole(model, tasks)
        found.append(each)
    return torch.stack(found, dim=1)


def _whole(model: nn.Module, tasks: Sequence[Task]) -> torch.Tensor:
    return torch.stack([losses(model, task) for task in tasks])


def _after_prompt(model: Any, sequences: Sequence[Tokens]) -> torch.Tensor | None:
    """The mean loss of each answer ``[answers]``; None if the model cannot go on from what it has read."""
    parameter = next(model.parameters())
    start = _start(sequences)
    if not start or parameter.dtype != torch.float32:
        return None
    prompt = torch.tensor([sequences[0].ids[:start]], device=parameter.device)
    read = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
    cache = getattr(read, "past_key_values", None)
    if not isinstance(cache, DynamicCache) or not all(isinstance(layer, DynamicLayer) for layer in cache.layers):
        return None
    cache.batch_repeat_interleave(len(sequences))
    rows = pad_rows([Tokens(s.ids[start:], s.labels[start:]) for s in sequences], 0)
    labels = torch.full_like(rows["labels"], IGNORE)
    for i, sequence in enumerate(sequences):
        labels[i, : len(sequence.ids) - start] = torch.tensor(sequence.labels[start:])
    labels = labels.to(parameter.device)
    mask = torch.cat([torch.ones(len(sequences), start, dtype=torch.long), rows["attention_mask"]], 1)
    said = model(
        input_ids=rows["input_ids"].to(parameter.device),
        attention_mask=mask.to(parameter.device),
        past_key_values=cache,
        use_cache=True,
    ).logits
    logits = torch.cat([read.logits[:, -1:].expand(len(sequences), -1, -1), said[:, :-1]], 1).float()
    return answer_nll(logits, labels) / (labels != IGNORE).sum(1)


def _start(sequences: Sequence[Tokens]) -> int:
    """How many tokens all begin with, before the first that is scored."""
    ids = [s.ids for s in sequences]
    alike = next((i for i, column in enumerate(zip(*ids, strict=False)) if len(set(column)) > 1), min(map(len, ids)))
    scored = min(next(i for i, label in enumerate(s.labels) if label != IGNORE) for s in sequences)
    return min(alike, scored)
