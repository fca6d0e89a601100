"""The trained part of one weight matrix.

Shapes: ``x [..., in]``, ``y [..., out]``, ``k`` chosen rows (outputs) or columns (inputs).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Delta(nn.Module):
    """Compact additive change of ``k`` rows or columns of a weight matrix.

    Args:
        index: sorted indices ``[k]`` of the chosen rows or columns.
        shape: shape of the trained matrix.
        dtype: float32, whatever the base: bf16 would round small updates away (float64 for a float64 base).
    """

    index: torch.Tensor

    def __init__(self, index: list[int], shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor(index, dtype=torch.int64, device=device))
        self.weight = nn.Parameter(torch.zeros(shape, dtype=dtype, device=device))
        self._find_span()

    def _find_span(self) -> None:
        # Heads are contiguous: a view is cheaper than a gather. Known on the host, so that no forward waits for it.
        index = self.index.tolist()
        first, count = index[0], len(index)
        self.span = (first, count) if index == list(range(first, first + count)) else None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._find_span()

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Select the chosen entries of the last dimension: ``[..., n] -> [..., k]``."""
        return tensor.narrow(-1, *self.span) if self.span else tensor.index_select(-1, self.index)

    def dense(self, out_features: int, in_features: int) -> torch.Tensor:
        """Return the change as a full matrix ``[out, in]``."""
        raise NotImplementedError

    def factors(self, out_features: int, in_features: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``B [out, r]`` and ``A [r, in]`` with ``B @ A`` exactly the change, r at most k, out and in."""
        raise NotImplementedError


def one_hot(index: torch.Tensor, size: int, like: torch.Tensor) -> torch.Tensor:
    """Return ``[size, k]`` with a 1 at ``[index[i], i]``."""
    return torch.eye(size, dtype=like.dtype, device=like.device).index_select(1, index)


class RowDelta(Delta):
    """``y[..., index] += x @ weight.T`` with ``weight [k, in]``."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        change = F.linear(x.to(self.weight.dtype), self.weight).to(y.dtype)
        if self.span:
            # In place is safe: y is the fresh output of the base layer, and a linear layer does not save its output.
            y.narrow(-1, *self.span).add_(change)
            return y
        return y.index_add_(-1, self.index, change)

    def dense(self, out_features: int, in_features: int) -> torch.Tensor:
        zero = self.weight.new_zeros(out_features, in_features)
        return zero.index_copy(0, self.index, self.weight)

    def factors(self, out_features: int, in_features: int) -> tuple[torch.Tensor, torch.Tensor]:
        if len(self.index) > in_features:
            return self.dense(out_features, in_features), torch.eye(in_features).to(self.weight)
        return one_hot(self.index, out_features, self.weight), self.weight


class ColumnDelta(Delta):
    """``y += x[..., index] @ weight.T`` with ``weight [out, k]``; backward keeps only ``x[..., index]``."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        change = F.linear(self.take(x).to(self.weight.dtype), self.weight)
        return y.add_(change.to(y.dtype))

    def dense(self, out_features: int, in_features: int) -> torch.Tensor:
        zero = self.weight.new_zeros(out_features, in_features)
        return zero.index_copy(1, self.index, self.weight)

    def factors(self, out_features: int, in_features: int) -> tuple[torch.Tensor, torch.Tensor]:
        if len(self.index) > out_features:
            return torch.eye(out_features).to(self.weight), self.dense(out_features, in_features)
        return self.weight, one_hot(self.index, in_features, self.weight).T
