"""Sequences side by side: padding, and what of a batch the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .tokens import IGNORE, Tokens


def pad_rows(rows: Sequence[Tokens], pad_id: int, padding: str = "right") -> dict[str, torch.Tensor]:
    """Pad sequences to one length: ``input_ids``, ``attention_mask``, ``labels`` ``[rows, tokens]``.

    Left padding adds ``position_ids``, which count from the first real token.
    """
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    labels = torch.full((len(rows), length), IGNORE)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        start = length - len(row.ids) if padding == "left" else 0
        part = slice(start, start + len(row.ids))
        ids[i, part] = torch.tensor(row.ids)
        labels[i, part] = torch.tensor(row.labels)
        mask[i, part] = 1
        labels[i, start] = IGNORE  # nothing stands before it that could say it; on the left, padding does
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return batch if padding == "right" else batch | {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def padded(
    examples: Sequence[tuple[Tokens, ...]],
    corrupted: Sequence[tuple[Tokens, ...]] | None,
    wrong: Sequence[tuple[int, ...]] | None,
    reference: Sequence[float] | None,
    *,
    pad_id: int,
    padding: str,
) -> dict[str, torch.Tensor]:
    """A batch of a Task, as ``Task.batches`` describes it."""
    rows = side_by_side(examples)
    batch = pad_rows(rows, pad_id, padding)
    if corrupted is not None:
        batch["corrupted_ids"] = pad_rows(side_by_side(corrupted), pad_id, padding)["input_ids"]
    if wrong is not None:
        labelled = [Tokens(row.ids, labels) for row, labels in zip(rows, wrong, strict=True)]
        batch["wrong"] = pad_rows(labelled, pad_id, padding)["labels"]
    if reference is not None:
        batch["reference"] = torch.tensor(reference)
    return batch


def side_by_side(examples: Sequence[tuple[Tokens, ...]]) -> list[Tokens]:
    """Rows of a batch: first all examples' first sequences, then all their second ones."""
    return [sequence for column in zip(*examples, strict=True) for sequence in column]


def model_inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of a batch the model reads."""
    names = ("input_ids", "attention_mask", "position_ids", "past_key_values")
    return {name: batch[name] for name in names if name in batch}
