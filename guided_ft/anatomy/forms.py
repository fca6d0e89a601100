"""What layers take and return besides hidden states, so that something else can stand where they stood."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Form = Callable[["torch.Tensor"], object]
"""Makes of hidden states what a layer would return."""


def alone(hidden: torch.Tensor) -> object:
    """The form of a layer that returns hidden states and nothing else."""
    return hidden


def form_of(output: object) -> Form:
    """The form of what a layer has returned: some return a tuple, of which only the hidden states are read."""
    if not isinstance(output, tuple):
        return alone
    rest = (None,) * (len(output) - 1)
    return lambda hidden: (hidden, *rest)


def hidden_of(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The hidden states in what a layer has returned."""
    return output[0] if isinstance(output, tuple) else output


def cut_alike(
    x: torch.Tensor, others: tuple[Any, ...], cut: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[object, ...]:
    """Cut whatever has the rows and tokens of ``x``: some MLPs are also given the stream that they add to."""
    return tuple(cut(other) if getattr(other, "shape", ())[:-1] == x.shape[:-1] else other for other in others)
