"""Fingerprints of tensors: whether a model is the same, and whether what should be frozen has not moved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn

from .storage import quantized_layers, storage_of


def canonical(name: str) -> str:
    """The name that a base tensor has without adapters around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def base_tensors(model: nn.Module, fixed: bool = False) -> dict[str, torch.Tensor]:
    """All parameters and saved buffers of the base model by canonical name; adapters' own are left out.

    With ``fixed`` those of adapters come along that never train.

    With them the scales of quantized weights: two models may have the same codes. Buffers that are not saved are
    computed, some in every pass anew: the frequencies of long and dynamic rotary positions.
    """
    adapters = tuple(
        f"{name}.{child}." if name else f"{child}."
        for name, module in model.named_modules()
        for child in (*getattr(module, "adapter_layer_names", ()), *getattr(module, "other_param_names", ()))
    )
    frozen = tuple(
        f"{name}.{child}.{adapter}."
        for name, module in model.named_modules()
        for adapter, children in (getattr(module, "frozen_peft_weight_names", {}) if fixed else {}).items()
        for child in children
    )
    computed = {
        f"{name}.{buffer}" if name else buffer
        for name, module in model.named_modules(remove_duplicate=False)
        for buffer in module._non_persistent_buffers_set
    }
    buffers = [(name, tensor) for name, tensor in model.named_buffers(remove_duplicate=False) if name not in computed]
    named = [*model.named_parameters(remove_duplicate=False), *buffers]
    for name, layer in quantized_layers(model).items():
        named += [(f"{name}.weight.{key}", scales) for key, scales in storage_of(layer).scales(layer).items()]
    wanted = [(name, t) for name, t in named if not name.startswith(adapters) or name.startswith(frozen)]
    return {canonical(name): tensor for name, tensor in wanted}


def fingerprint(model: nn.Module, skip: Iterable[str] = (), fixed: bool = False) -> dict[str, str]:
    """SHA-256 of the bytes of every base tensor, by canonical name.

    Args:
        skip: canonical names of tensors that are meant to change.
        fixed: take in the tensors of adapters that never train.
    """
    left_out = set(skip)
    done: dict[int, str] = {}
    result = {}
    for name, tensor in base_tensors(model, fixed).items():
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
        state.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
