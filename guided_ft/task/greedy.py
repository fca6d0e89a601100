"""Greedy answers of a batch, without further work on those that have ended: a batch else takes as long as its longest
answer for each."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CHUNK = 32
"""Tokens between two looks at which answers have ended."""


@torch.no_grad()
def greedy(
    model: nn.Module,
    ids: torch.Tensor,
    mask: torch.Tensor,
    *,
    max_new_tokens: int,
    pad: int | None,
    end: int | None = None,
) -> list[list[int]]:
    """The tokens that a model answers to each prompt, as ``generate`` finds them, the end with them if it came.

    Args:
        ids, mask: ``[prompts, length]``, padded on the left.
        pad: token that fills up answers that have ended.
        end: token that ends an answer, beside those that the model knows (``ends_of``).
    """
    ends = ends_of(model, end)
    length = ids.shape[1]
    rows = list(range(len(ids)))
    found: list[list[int]] = [[]] * len(rows)
    cache: Any = None
    while rows:
        left = max_new_tokens - (ids.shape[1] - length)
        out = model.generate(  # type: ignore[operator]  # of the mixin that causal LMs have
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=min(CHUNK, left),
            pad_token_id=pad,
            eos_token_id=ends or None,
            use_cache=True,
            return_dict_in_generate=True,
        )
        fresh = out.sequences.shape[1] - ids.shape[1]
        ids, mask = out.sequences, torch.cat([mask, mask.new_ones(len(mask), fresh)], dim=1)
        ended = torch.isin(ids[:, length:], ids.new_tensor(ends)).any(1) | (fresh >= left)
        for row, answer, end in zip(rows, ids[:, length:].tolist(), ended.tolist(), strict=True):
            if end:
                found[row] = answer
        on = (~ended).nonzero()[:, 0]
        rows = [rows[i] for i in on.tolist()]
        ids, mask, cache = ids[on], mask[on], _of(out.past_key_values, on)
    return found


def ends_of(model: nn.Module, end: int | None) -> list[int]:
    """The tokens that end an answer: those that the model knows, and its tokenizer's, which is what training puts after
    an answer."""
    known = getattr(model, "generation_config").eos_token_id  # noqa: B009  # of the same mixin
    known = [known] if isinstance(known, int) else known or []
    return sorted({*known, end} - {None})


def _of(cache: Any, rows: torch.Tensor) -> Any:
    """What a cache holds of these rows; None, and it is made again, of a kind that cannot tell rows apart."""
    from transformers import DynamicCache

    if not isinstance(cache, DynamicCache):
        return None
    if len(rows):
        cache.batch_select_indices(rows)
    return cache
