"""Fingerprints of tensors: whether a model is the same, and whether what should be frozen has not moved."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..errors import GuidedError
from ..system import processes
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
    done: dict[tuple, str] = {}
    result = {}
    away = _elsewhere(model)
    for name, tensor in base_tensors(model, fixed).items():
        if name in left_out:
            continue
        if tensor.is_meta:
            result[name] = _hash(_fetched(name, away))
            continue
        # Tied weights are hashed once.
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.data_ptr() else (name,)
        if key not in done:
            done[key] = _hash(tensor)
        result[name] = done[key]
    return result


def _elsewhere(model: nn.Module) -> dict[str, tuple[Any, str]]:
    """Where each tensor is that accelerate keeps on disk or in main memory, by canonical name."""
    found: dict[str, tuple[Any, str]] = {}
    for name, module in model.named_modules():
        hook = getattr(module, "_hf_hook", None)
        for each in getattr(hook, "hooks", [hook]):
            weights = getattr(each, "weights_map", None)
            if weights is not None:
                owned = [*module._parameters, *module._buffers]
                found |= {canonical(f"{name}.{key}" if name else key): (weights, key) for key in owned}
    return found


def _fetched(name: str, away: dict[str, tuple[Any, str]]) -> torch.Tensor:
    if name not in away:
        raise GuidedError(
            f"{name} is not in memory (load the model onto a device, without device_map='disk' or 'meta')"
        )
    weights, key = away[name]
    return weights[key]


def _hash(tensor: torch.Tensor) -> str:
    data = processes.whole(tensor.detach()).cpu().contiguous()
    state = hashlib.sha256(f"{data.dtype}{tuple(data.shape)}".encode())
    if data.numel():
        state.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()
