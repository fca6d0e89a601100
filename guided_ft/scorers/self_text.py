"""Text that the model itself samples: a retain set that needs no data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..anatomy import base_model
from ..system.progress import track
from ..task.task import Task
from ..task.tokens import Tokens
from .watch.tap import Tap

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_BATCH = 64
"""Texts that grow side by side: on a CPU a step of 64 takes twice as long as one of 16."""


def self_text(
    model: nn.Module, *, num_examples: int = 16, num_tokens: int = 48, seed: int = 0, progress: bool | None = None
) -> Task:
    """Sample texts from the model at temperature 1, starting from its first token.

    What the model says unasked is a sample of what it knows, and by construction it is text on which its loss and
    its drift can be measured (data-free distillation starts the same way: arXiv 2305.17888).

    Args:
        num_examples: texts to sample.
        num_tokens: longest text, in tokens, within the model's window; a text ends earlier at the end token.
        seed: texts of different seeds are independent; the same seed on the same machine repeats.
    """
    base = base_model(model)
    config, generation = base.config.get_text_config(), base.generation_config
    end = generation.eos_token_id if generation.eos_token_id is not None else config.eos_token_id
    ends = set(end if isinstance(end, list) else [end]) - {None}
    start = next(i for i in (generation.bos_token_id, config.bos_token_id, *sorted(ends), 0) if i is not None)
    pad = next(iter(sorted(ends)), start)
    # The first token takes a place, too.
    num_tokens = min(num_tokens, (getattr(config, "max_position_embeddings", None) or 1 << 30) - 1)
    texts: list[tuple[Tokens]] = []
    with Tap(model), _plain_settings(base), torch.no_grad():
        torch.manual_seed(seed)
        counts = [min(_BATCH, num_examples - i) for i in range(0, num_examples, _BATCH)]
        for count in track(counts, len(counts), "sampling", progress):
            ids = torch.full((count, 1), start, device=next(model.parameters()).device)
            rows = base.generate(  # type: ignore[operator]  # of the mixin that causal LMs have
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                # A text of a word or two says nothing.
                min_new_tokens=min(8, num_tokens),
                max_new_tokens=num_tokens,
                eos_token_id=sorted(ends) or None,
                pad_token_id=pad,
                use_cache=True,
            ).tolist()
            texts += [(_cut(row, ends),) for row in rows]
    return Task(tuple(texts), pad_id=pad, name="self")


@contextlib.contextmanager
def _plain_settings(base: PreTrainedModel) -> Iterator[None]:
    """Without the model's own settings of generation: what beams and penalties leave is no sample of what it knows."""
    own = base.generation_config
    base.generation_config = type(own)()
    try:
        yield
    finally:
        base.generation_config = own


def _cut(row: list[int], ends: set[int]) -> Tokens:
    """Drop what follows the first end token after the start."""
    last = next((i for i in range(1, len(row)) if row[i] in ends), len(row) - 1)
    ids = tuple(row[: last + 1])
    return Tokens(ids, ids)
