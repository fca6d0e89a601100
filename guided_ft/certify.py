"""Proof that what should be frozen is frozen: fingerprints of tensors, and copies of what is trained in place."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn


def canonical(name: str) -> str:
    """The name that a base tensor has without adapters around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def base_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers of the base model by canonical name; adapters' own are left out."""
    adapters = tuple(
        f"{name}.{child}." if name else f"{child}."
        for name, module in model.named_modules()
        for child in (*getattr(module, "adapter_layer_names", ()), *getattr(module, "other_param_names", ()))
    )
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {canonical(name): tensor for name, tensor in named if not name.startswith(adapters)}


def fingerprint(model: nn.Module, skip: Iterable[str] = ()) -> dict[str, str]:
    """SHA-256 of the bytes of every base tensor, by canonical name.

    Args:
        skip: canonical names of tensors that are meant to change.
    """
    left_out = set(skip)
    done: dict[int, str] = {}
    result = {}
    for name, tensor in base_tensors(model).items():
        if name not in left_out:
            # Tied weights are hashed once.
            key = tensor.data_ptr() if tensor.numel() else 0
            if key not in done or not key:
                done[key] = _hash(tensor)
            result[name] = done[key]
    return result


def _hash(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous()
    state = hashlib.sha256(f"{data.dtype}{tuple(data.shape)}".encode())
    if data.numel():
        state.update(memoryview(data.reshape(-1).view(torch.uint8).numpy()))
    return state.hexdigest()


@dataclass(frozen=True)
class Certificate:
    """How many tensors that should not have moved are bit-identical.

    Args:
        identical: tensors with the same bits as before.
        total: tensors that should not have moved.
        moved: names of the others.
    """

    identical: int
    total: int
    moved: tuple[str, ...] = ()

    @classmethod
    def compare(cls, before: dict[str, str], after: dict[str, str]) -> Certificate:
        moved = tuple(name for name, value in before.items() if after.get(name) != value)
        return cls(len(before) - len(moved), len(before), moved)

    @property
    def ok(self) -> bool:
        return not self.moved and self.total > 0

    def __str__(self) -> str:
        return f"{self.identical} of {self.total} frozen tensors bit-identical"


class Originals:
    """Copies of parameters that are trained in place, so that the base model can be asked again."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        wanted = set(names)
        self._model = model
        self._kept = {n: p.detach().to("cpu", copy=True) for n, p in model.named_parameters() if n in wanted}

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside, the model is the base again."""
        parameters = dict(self._model.named_parameters())
        tuned = {name: parameters[name].detach().clone() for name in self._kept}
        self.restore()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in tuned.items():
                    parameters[name].copy_(value)

    def restore(self) -> None:
        """Make the model the base again for good."""
        parameters = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, value in self._kept.items():
                parameters[name].copy_(value)
