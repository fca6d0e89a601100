"""What attaching takes, whatever the mode: a model that changes under the hands of its owner."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def trainable_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that require gradients."""
    return frozenset(name for name, p in model.named_parameters() if p.requires_grad)


def in_place(model: nn.Module, attach: Callable[[nn.Module], nn.Module]) -> None:
    """Let the object itself become the model that ``attach`` makes around it."""
    inner = copy.copy(model)
    vars(inner).update({name: _rebound(value, model, inner) for name, value in vars(model).items()})
    attached = attach(inner)
    model.__class__ = attached.__class__
    model.__dict__ = attached.__dict__


def _rebound(value: object, old: object, new: object) -> Any:
    """A method that a library has put on the object ``old``, with the methods that it wraps, bound to ``new``.

    TRL before 1.16 replaces ``forward`` by a method of the object that calls the former one.
    """
    if not (isinstance(value, MethodType) and value.__self__ is old):
        return value
    for cell in value.__func__.__closure__ or ():
        cell.cell_contents = _rebound(cell.cell_contents, old, new)
    return MethodType(value.__func__, new)


def to_float32(model: nn.Module, names: Iterable[str]) -> None:
    """Give parameters of an adapter back their float32: TRL casts those of quantized models to bfloat16, which rounds
    small updates away, and what was saved is float32 when it is loaded again."""
    import torch

    wanted = set(names)
    for name, parameter in model.named_parameters():
        if name in wanted and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
