"""What every export asks of a model first, and the merged copy that two of them write."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING

from torch import nn

from ..errors import GuidedError
from ..system.places import forget_quantization

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


def adapted(model: nn.Module) -> PeftModel:
    """The model itself. Raises GuidedError if it has no adapter."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        raise GuidedError(f"export: a {type(model).__name__} has no adapter (pass the PeftModel)")
    return model


def merged_copy(model: PeftModel) -> PreTrainedModel:
    """A plain model with the active adapters merged in. The given model stays as it is, to the bit.

    The copy shares every weight that no adapter writes to, so it takes the memory of the others only. A quantized base
    is dequantized in the copy, so that nothing of the adapter is rounded to its codes.

    Raises:
        GuidedError: if an adapter is merged into a quantized base, or the base is quantized by something else than
            bitsandbytes.
        ValueError: if an adapter holds NaN or infinity.
    """
    quantized = getattr(model.get_base_model(), "is_quantized", False)
    if quantized:
        _check_quantized(model)
    written = set() if quantized else {id(p) for p in _written(model)}
    tensors = itertools.chain(model.parameters(), model.buffers())
    twin = copy.deepcopy(model, {id(t): t for t in tensors if id(t) not in written})
    if quantized:
        twin = _on_plain_base(twin)
    return twin.merge_and_unload(safe_merge=True)


def _written(model: nn.Module) -> list[nn.Parameter]:
    """The weights that merging writes to: those under an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return [p for layer in layers for p in layer.get_base_layer().parameters()]


def _check_quantized(model: PeftModel) -> None:
    from ..slice.layer import broken
    from ..slice.storage import quantized_layers

    if not quantized_layers(model):
        raise GuidedError("export: the base is quantized in an unknown way (known: nf4, fp4, int8 of bitsandbytes)")
    if any(getattr(module, "merged", False) for module in model.modules()):
        raise GuidedError("export: an adapter is merged into quantized weights (call unmerge_adapter() first)")
    for name, tensors in _adapters(model).items():
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise broken(name)


def _adapters(model: PeftModel) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each active adapter."""
    from peft import get_peft_model_state_dict

    return {
        name: get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        for name in model.active_adapters
    }


def _on_plain_base(model: PeftModel) -> PeftModel:
    """Move the active adapters, of any kind, from a quantized base to the same base in full precision."""
    from peft import get_peft_model, set_peft_model_state_dict

    from ..slice.storage import dequantize

    tensors = _adapters(model)
    active = list(tensors)
    configs = {name: model.peft_config[name] for name in active}
    base = model.unload()
    dequantize(base)
    forget_quantization(base)
    moved = get_peft_model(base, configs[active[0]], adapter_name=active[0])
    for name in active:
        if name != active[0]:
            moved.add_adapter(name, configs[name])
        set_peft_model_state_dict(moved, tensors[name], adapter_name=name)
    moved.base_model.set_adapter(active)  # type: ignore[operator]
    return moved
