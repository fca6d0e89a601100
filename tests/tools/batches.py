"""A batch of token ids, and what a model says of it."""

from __future__ import annotations

import torch


def batch(rows: int = 4, length: int = 13, seed: int = 0, left: bool = False) -> dict[str, torch.Tensor]:
    """Texts of different lengths, padded, their second halves labelled."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(rows, length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i in range(rows):
        size = length - (i * 2) % 7
        at = slice(length - size, length) if left else slice(0, size)
        ids[i, at] = torch.randint(3, 99, (size,), generator=generator)
        mask[i, at] = 1
        half = slice(at.start + size // 2, at.stop)
        labels[i, half] = ids[i, half]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gradients(model, inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
