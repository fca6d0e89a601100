"""A forward pass on tensors without content: what autograd keeps for the backward pass.

That depends on every line of a model's code, so the code is asked: it runs on fake tensors, which have shapes and a
dtype but no numbers, and every tensor that is saved for the backward pass is counted once. A model of 70 billion
parameters takes a second and no memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from ..anatomy import decoder_of
from ..errors import GuidedError
from .flops import Batch


def saved_bytes(model: nn.Module, batch: Batch) -> int:
    """Bytes that autograd saves in the layers of a model for a padded batch; parameters and buffers do not count.

    The model is left on fake tensors. Raises GuidedError if its sizes do not fit together.
    """
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with FakeTensorMode(), torch.device("cpu"), _Grouped(), hooks:
        _to_fake(model)
        _route_evenly(model)
        own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        ids = torch.zeros(batch.rows, batch.length, dtype=torch.long)
        decoder = decoder_of(model)
        # OPT of transformers 5.20 draws in training mode which layers to drop, and a fake number has no value.
        decoder.training = False
        try:
            # The output is held, and with it the graph: no storage may be freed and its address used again.
            held = decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        except RuntimeError as error:
            raise GuidedError(f"model: its configuration makes a model that cannot run ({error!s:.160})") from None
    total = sum(storage.nbytes() for storage in saved.values())
    del held
    return total


def _to_fake(model: nn.Module) -> None:
    """Replace meta tensors, of which operators know less, by fake ones on the CPU. Tied ones are no longer tied."""
    for module in model.modules():
        kinds: list[dict[str, Any]] = [module._parameters, module._buffers]
        for tensors in kinds:
            for name, tensor in tensors.items():
                if tensor is not None:
                    new = torch.empty(tensor.shape, dtype=tensor.dtype)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    tensors[name] = nn.Parameter(new, tensor.requires_grad) if is_parameter else new


def _route_evenly(model: nn.Module) -> None:
    """Fake tensors do not say which tokens go to which experts: each gets as many as the others."""
    from ..slice import SliceExperts

    for layer in model.modules():
        if isinstance(layer, SliceExperts):
            layer.count = _evenly  # type: ignore[method-assign]


def _evenly(chosen: torch.Tensor, experts: int) -> list[int]:
    places = [i * chosen.numel() // experts for i in range(experts + 1)]
    return [b - a for a, b in itertools.pairwise(places)]


class _Grouped(TorchFunctionMode):
    """Products of experts: torch knows what they make of fake bfloat16 only, and nothing of float32."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.grouped_mm, torch._grouped_mm):
            return _GroupedProduct.apply(*args[:2], kwargs["offs"])
        return func(*args, **(kwargs or {}))


class _GroupedProduct(torch.autograd.Function):
    """``x [pairs, in]`` times one matrix per expert ``[experts, in, out]``: saves what ``torch._grouped_mm`` does."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(*([x] if of_weight else []), *([weight] if of_x else []), ends)
        return x.new_empty(len(x), weight.shape[-1])
