"""Where the neurons lie in the experts of transformers: ``gate_up_proj`` and ``down_proj`` with one matrix per expert.

``is_transposed``: a matrix is ``[in, out]``. ``is_concatenated``: all gate rows before all up rows, otherwise in turn.
Shapes: ``n`` chosen neurons of one expert.
"""

from __future__ import annotations

from typing import Protocol

import torch


class Experts(Protocol):
    """What a module of experts has, in transformers."""

    is_transposed: bool
    is_concatenated: bool
    has_bias: bool
    gate_up_proj: torch.Tensor
    gate_up_proj_bias: torch.Tensor
    down_proj: torch.Tensor


def size_of(base: Experts) -> int:
    """Neurons in each expert."""
    return base.down_proj.shape[1 if base.is_transposed else 2]


def hidden_of(base: Experts) -> int:
    """Width of the residual stream."""
    return base.down_proj.shape[2 if base.is_transposed else 1]


def rows_of(base: Experts, inside: torch.Tensor) -> torch.Tensor:
    """The gate row and the up row of each neuron: ``[n, 2]``."""
    gate, up = (inside, inside + size_of(base)) if base.is_concatenated else (2 * inside, 2 * inside + 1)
    return torch.stack([gate, up], dim=1)


def side_by_side(base: Experts, pairs: torch.Tensor) -> torch.Tensor:
    """Order ``[n, 2, ...]`` as the experts' gate function expects it: all gates first, or in turn."""
    return pairs.transpose(0, 1) if base.is_concatenated else pairs


def weights_of(
    base: Experts, expert: int, inside: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """The weights of neurons of one expert: rows ``[2 n, hidden]``, bias ``[2 n]`` and columns ``[n, hidden]``."""
    rows = side_by_side(base, rows_of(base, inside)).flatten()
    up, down = base.gate_up_proj[expert], base.down_proj[expert]
    if base.is_transposed:
        up = up.T
    else:
        down = down.T
    bias = base.gate_up_proj_bias[expert].index_select(0, rows).to(dtype) if base.has_bias else None
    return up.index_select(0, rows).to(dtype), bias, down.index_select(0, inside).to(dtype)
