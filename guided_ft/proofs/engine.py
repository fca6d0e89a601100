"""Proof of the engine: logits only where labels are, and the prefix cache, change neither loss nor gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    half = _half(bench)
    with _upper_half_trained(bench) as (batch, loss, expected):
        with labelled_only(model, a):
            words = _at_labels(bench, batch, loss, expected)
            store = PrefixStore(None, a.hidden_size, torch.float32, 1 << 20)
            with Prefix(model, a, half, store).open() as prefix:
                for _ in range(3):
                    _same(_gradients(bench, batch), (loss, expected), "with the prefix cache")
        return f"{words}; prefixes {_words(prefix)}"


def labelled(bench: Bench) -> str:
    """The same without a prefix cache."""
    with _upper_half_trained(bench) as (batch, loss, expected), labelled_only(bench.model, bench.anatomy):
        return _at_labels(bench, batch, loss, expected)


def _half(bench: Bench) -> int:
    return max(1, bench.anatomy.num_layers // 2)


@contextmanager
def _upper_half_trained(bench: Bench) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor, Gradients]]:
    """A batch with its loss and the gradients of the layers from the middle on, in train mode."""
    a, model = bench.anatomy, bench.model
    above = tuple(f"{a.layer_module(i)}." for i in range(_half(bench), a.num_layers))
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith(above))
    model.train()
    try:
        batch = _batch()
        loss, expected = _gradients(bench, batch)
        if not expected:
            raise Unproved("no gradient reaches the trained layers")
        yield batch, loss, expected
    finally:
        model.eval()
        model.requires_grad_(True)
        model.zero_grad()


def _at_labels(bench: Bench, batch: dict[str, torch.Tensor], loss: torch.Tensor, expected: Gradients) -> str:
    out = bench.model(**batch, use_cache=False)
    scored = int((batch["labels"][:, 1:] != IGNORE).sum())
    _same(_gradients(bench, batch), (loss, expected), "with logits only at labels")
    return f"logits at {'labels only' if out.logits.shape[:2] == (1, scored) else 'all tokens'}"


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
