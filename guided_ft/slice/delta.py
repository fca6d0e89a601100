"""The trained part of one weight matrix.

Shapes: ``x [..., in]``, ``y [..., out]``, ``k`` chosen rows (outputs) or columns (inputs).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import nn


class Delta(nn.Module, ABC):
    """Compact additive change of ``k`` rows or columns of a weight matrix; zero at birth.

    ``delta(x, y, own)`` returns ``y`` with the change for ``x`` added; ``own``: ``y`` may be written over, since nobody
    else has it.

    Args:
        index: sorted indices ``[k]`` of the chosen rows or columns.
        shape: shape ``(m, n)`` of the change.
        rank: train ``B [m, rank]`` and ``A [rank, n]`` with ``B @ A`` the change, instead of ``weight [m, n]``. Ignored
            where these would hold no fewer numbers, so that a rank never costs more than none.
        dtype: float32, whatever the base: bf16 would round small updates away (float64 for a float64 base).
    """

    index: torch.Tensor
    weight: nn.Parameter
    A: nn.Parameter
    B: nn.Parameter

    def __init__(
        self,
        index: list[int],
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor(index, dtype=torch.int64, device=device))
        self.low_rank = rank is not None and rank * sum(shape) < math.prod(shape)
        low = {"A": (rank or 0, shape[1]), "B": (shape[0], rank or 0)}
        sizes = low if self.low_rank else {"weight": shape}
        for name, size in sizes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(size, dtype=dtype, device=device)))
        if self.low_rank:
            # As in LoRA: one factor is zero, and the other is not, so that gradients flow.
            nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.span = span_of(index)

    def randomize(self) -> None:
        """Move away from zero, for tests."""
        nn.init.normal_(self.B if self.low_rank else self.weight, std=0.2 if self.low_rank else 0.02)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def change(self) -> torch.Tensor:
        """The change as one matrix ``[m, n]``."""
        return self.B @ self.A if self.low_rank else self.weight

    def apply_to(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply ``x [..., n]`` with the change: ``[..., m]``."""
        x = x.to(self.dtype)
        return F.linear(F.linear(x, self.A), self.B) if self.low_rank else F.linear(x, self.weight)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.span = span_of(self.index.tolist())

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Select the chosen entries of the last dimension: ``[..., n] -> [..., k]``."""
        return tensor.narrow(-1, *self.span) if self.span else tensor.index_select(-1, self.index)

    @abstractmethod
    def dense(self, out_features: int, in_features: int) -> torch.Tensor:
        """Return the change as a full matrix ``[out, in]``."""

    @abstractmethod
    def factors(self, out_features: int, in_features: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``B [out, r]`` and ``A [r, in]`` with ``B @ A`` exactly the change, r at most k, out and in."""


def span_of(index: list[int]) -> tuple[int, int] | None:
    """First index and number of indices, if they are contiguous, as heads are: a view is cheaper than a gather.

    Known on the host, so that no forward waits for it, and a model on the meta device can have adapters.
    """
    first, count = index[0], len(index)
    return (first, count) if index == list(range(first, first + count)) else None


def one_hot(index: torch.Tensor, size: int, like: torch.Tensor) -> torch.Tensor:
    """Return ``[size, k]`` with a 1 at ``[index[i], i]``."""
    return torch.eye(size, dtype=like.dtype, device=like.device).index_select(1, index)


class RowDelta(Delta):
    """``y[..., index] += x @ change.T`` with ``change [k, in]``."""

    def forward(self, x: torch.Tensor, y: torch.Tensor, own: bool = False) -> torch.Tensor:
        change = self.apply_to(x).to(y.dtype)
        if not own:
            return y.index_add(-1, self.index, change)
        if self.span:
            y.narrow(-1, *self.span).add_(change)
            return y
        return y.index_add_(-1, self.index, change)

    def dense(self, out_features: int, in_features: int) -> torch.Tensor:
        change = self.change
        return change.new_zeros(out_features, in_features).index_copy(0, self.index, change)

    def factors(self, out_features: int, in_features: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.low_rank:
            return one_hot(self.index, out_features, self.B) @ self.B, self.A
        if len(self.index) > in_features:
            return self.dense(out_features, in_features), torch.eye(in_features).to(self.weight)
        return one_hot(self.index, out_features, self.weight), self.weight


class ColumnDelta(Delta):
    """``y += x[..., index] @ change.T`` with ``change [out, k]``; backward keeps only ``x[..., index]``."""

    def forward(self, x: torch.Tensor, y: torch.Tensor, own: bool = False) -> torch.Tensor:
        change = self.apply_to(self.take(x)).to(y.dtype)
        return y.add_(change) if own else y + change

    def dense(self, out_features: int, in_features: int) -> torch.Tensor:
        change = self.change
        return change.new_zeros(out_features, in_features).index_copy(1, self.index, change)

    def factors(self, out_features: int, in_features: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.low_rank:
            return self.B, self.A @ one_hot(self.index, in_features, self.A).T
        if len(self.index) > out_features:
            return torch.eye(out_features).to(self.weight), self.dense(out_features, in_features)
        return self.weight, one_hot(self.index, in_features, self.weight).T
