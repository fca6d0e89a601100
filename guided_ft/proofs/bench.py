"""What the proofs share: a tiny model on the bench, texts, a plain loss, and ways to silence parts of weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from ..anatomy import Anatomy, Component, Slice, base_model, stored_weight
from ..task.task import Task
from ..task.tokens import IGNORE, Tokens
from .replica import tokens

ROUNDING = 2e-5
"""Largest difference of float32 results that should be equal, relative to the largest of them."""


class Unproved(Exception):
    """What was seen instead of what should hold."""


@dataclass(frozen=True)
class Bench:
    """A tiny model in eval mode, and its anatomy."""

    model: nn.Module
    anatomy: Anatomy

    @cached_property
    def base(self) -> nn.Module:
        return base_model(self.model)

    @cached_property
    def task(self) -> Task:
        """Five texts of three lengths that begin alike; the last four tokens are scored."""
        start = tokens(1, 3, seed=2)[0].tolist()
        texts = [start + row.tolist()[: 8 - i % 3] for i, row in enumerate(tokens(5, 8, seed=3))]
        rows = [Tokens(tuple(t), (IGNORE,) * (len(t) - 4) + tuple(t[-4:])) for t in texts]
        return Task(tuple((row,) for row in rows), batch_size=3, name="proof")

    def logits(self) -> torch.Tensor:
        """Logits of random texts, ``[rows, tokens, vocabulary]``, of the model as it is when nothing of it trains."""
        with torch.no_grad(), frozen(self.model):
            return self.model(input_ids=tokens(8, 9), use_cache=False).logits.float()

    def loss(self) -> float:
        """Sum over the task's examples of the mean loss of the scored tokens: one whole pass each, no padding."""
        total = 0.0
        for (row,) in self.task.examples:
            with torch.no_grad():
                logits = self.model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, -5:-1].float()
            total += nn.functional.cross_entropy(logits, torch.tensor(row.ids[-4:])).item()
        return total

    def some(self, kind: str, layer: int, count: int) -> list[Component]:
        """Components of a layer, evenly drawn."""
        size = self.anatomy.size(kind)
        return [self.anatomy.component(kind, layer, i) for i in range(size // (2 * count), size, max(1, size // count))]

    def weight(self, module: str) -> nn.Parameter:
        return stored_weight(self.base, module)

    def bias(self, module: str) -> torch.Tensor | None:
        return getattr(self.base.get_submodule(module), "bias", None)

    @contextmanager
    def zeroed(self, parts: Iterable[Slice], *, biases: bool = False) -> Iterator[None]:
        """Zero slices of weights (and, for rows, of biases) while the block runs."""
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []

        def zero(tensor: torch.Tensor, axis: int, index: torch.Tensor) -> None:
            kept.append((tensor, tensor.detach().clone()))
            tensor.data.index_fill_(axis, index, 0)

        for part in parts:
            weight, index = self.weight(part.module), torch.tensor(part.index)
            zero(weight if part.expert is None else weight.data[part.expert], part.axis, index)
            bias = self.bias(part.module) if biases else None
            if bias is not None:
                zero(bias, 0, index)
        try:
            yield
        finally:
            for tensor, before in reversed(kept):
                tensor.data.copy_(before)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No weight asks for gradients while the block runs: torch multiplies by those that do in another order, even where
    no gradients are kept (``should_fold`` of its matmul), and on some processors that rounds differently."""
    asking = [p for p in model.parameters() if p.requires_grad]
    for p in asking:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in asking:
            p.requires_grad_(True)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))


def alike(one: torch.Tensor, other: torch.Tensor, what: str, tolerance: float = ROUNDING) -> float:
    """Return how far two results are apart. Raises Unproved if that is more than rounding."""
    if one.shape != other.shape:
        raise Unproved(f"{what}: shape {tuple(one.shape)}, not {tuple(other.shape)}")
    far = apart(one, other)
    if not far <= tolerance:
        raise Unproved(f"{what} is off by {far:.1e} of the largest")
    return far
