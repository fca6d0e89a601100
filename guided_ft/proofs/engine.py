"""Proof of the engine: logits only where labels are, and the prefix cache, change neither loss nor gradients."""

from __future__ import annotations

import torch

from ..engine.labelled import labelled_only
from ..engine.prefix import Prefix
from ..engine.store import PrefixStore
from ..task.tokens import IGNORE
from .bench import Bench, Unproved, alike
from .replica import tokens

Gradients = dict[str, torch.Tensor]


def engine(bench: Bench) -> str:
    """In train mode, on padded texts of different lengths, with layers from the middle on trained."""
    a, model = bench.anatomy, bench.model
    half = max(1, a.num_layers // 2)
    above = tuple(f"{a.layer_module(i)}." for i in range(half, a.num_layers))
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith(above))
    model.train()
    try:
        batch = _batch()
        loss, expected = _gradients(bench, batch)
        if not expected:
            raise Unproved("no gradient reaches the trained layers")
        with labelled_only(model, a):
            out = model(**batch)
            scored = int((batch["labels"][:, 1:] != IGNORE).sum())
            _same(_gradients(bench, batch), (loss, expected), "with logits only at labels")
            store = PrefixStore(None, a.hidden_size, torch.float32, 1 << 20)
            with Prefix(model, a, half, store).open() as prefix:
                for _ in range(3):
                    _same(_gradients(bench, batch), (loss, expected), "with the prefix cache")
        fewer = out.logits.shape[:2] == (1, scored)
        return f"logits at {'labels only' if fewer else 'all tokens'}; prefixes {_words(prefix)}"
    finally:
        model.eval()
        model.requires_grad_(True)
        model.zero_grad()


def _words(prefix: Prefix) -> str:
    if not prefix.hits + prefix.misses:
        return "not cached, computed as ever"
    return f"from the cache {prefix.hits} times"


def _batch() -> dict[str, torch.Tensor]:
    ids = tokens(4, 10, seed=5)
    mask = torch.ones_like(ids)
    for i in range(4):
        mask[i, 10 - 2 * i :] = 0
    ids = ids * mask
    labels = ids.masked_fill((mask == 0) | (torch.arange(10) < 2), IGNORE)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _gradients(bench: Bench, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Gradients]:
    bench.model.zero_grad()
    loss = bench.model(**batch, use_cache=False).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in bench.model.named_parameters() if p.grad is not None}


def _same(found: tuple[torch.Tensor, Gradients], expected: tuple[torch.Tensor, Gradients], how: str) -> None:
    alike(found[0], expected[0], f"the loss {how}")
    if set(found[1]) != set(expected[1]):
        raise Unproved(f"{how} other parameters get gradients")
    for name, gradient in expected[1].items():
        if gradient.abs().max() > 1e-6:
            alike(found[1][name], gradient, f"the gradient of {name} {how}", 1e-4)
