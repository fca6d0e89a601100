"""How the frozen weight of a layer is kept: as numbers, or quantized by bitsandbytes. One row of a table for each.

Weights are read and written in the orientation that their layer had before it was quantized: ``[out, in]``, or
``[in, out]`` for GPT-2's Conv1D.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..errors import GuidedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Storage(ABC):
    """Reads and overwrites the weight of a layer."""

    @abstractmethod
    def read(self, layer: nn.Module) -> torch.Tensor:
        """The whole weight in full precision; not to be changed."""

    @abstractmethod
    def dtype(self, layer: nn.Module) -> torch.dtype:
        """What numbers are rounded to before they are kept."""

    def scales(self, layer: nn.Module) -> dict[str, torch.Tensor]:
        """What is needed to read the weight beside the parameter; neither parameters nor buffers."""
        return {}

    @abstractmethod
    def write(self, layer: nn.Module, axis: int, index: torch.Tensor, part: torch.Tensor) -> Any:
        """Overwrite rows or columns; returns what ``restore`` needs to put back exactly what was there."""

    @abstractmethod
    def restore(self, layer: nn.Module, kept: object) -> None:
        """Undo the latest ``write``, bit by bit."""


class Plain(Storage):
    """Numbers."""

    def read(self, layer: Any) -> torch.Tensor:
        return layer.weight.data

    def dtype(self, layer: Any) -> torch.dtype:
        return layer.weight.dtype

    def write(self, layer: Any, axis: int, index: torch.Tensor, part: torch.Tensor) -> Any:
        before = layer.weight.data.index_select(axis, index)
        layer.weight.data.index_copy_(axis, index, part)
        return axis, index, before

    def restore(self, layer: Any, kept: Any) -> None:
        layer.weight.data.index_copy_(*kept)


class Quantized(Storage):
    """The weight is made anew from its dequantized form, as in PEFT's LoRA; the old one is kept to be put back.

    What was not changed keeps its codes: the largest number of a block or row is a code of its own, so quantizing a
    dequantized block gives the same codes again (but where scales are quantized themselves: these are found anew). What
    was changed is rounded to the codes, which may lose most of a small change: ``export.merged`` loses nothing.
    """

    def read(self, layer: nn.Module) -> torch.Tensor:
        full = self._dequantized(layer)
        return full.T if is_transposed(layer) else full

    def write(self, layer: nn.Module, axis: int, index: torch.Tensor, part: torch.Tensor) -> Any:
        full = self.read(layer).to(part.dtype).index_copy(axis, index, part)
        kept = layer.weight, *self._state(layer)
        self._put(layer, self._requantized(layer.weight, full.T if is_transposed(layer) else full))
        return kept

    def restore(self, layer: Any, kept: Any) -> None:
        self._put(layer, *kept)

    @abstractmethod
    def _dequantized(self, layer: nn.Module) -> torch.Tensor:
        """The weight ``[out, in]``."""

    @abstractmethod
    def _requantized(self, old: object, full: torch.Tensor) -> nn.Parameter:
        """A parameter like ``old`` that holds ``full [out, in]``."""

    @abstractmethod
    def _state(self, layer: nn.Module) -> tuple:
        """What the layer holds beside its parameter."""

    @abstractmethod
    def _put(self, layer: nn.Module, weight: nn.Parameter, *state: object) -> None:
        """Give the layer a parameter, and what belongs to it."""


class FourBit(Quantized):
    """``bitsandbytes.nn.Linear4bit``: nf4 or fp4."""

    def _dequantized(self, layer: Any) -> torch.Tensor:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(layer.weight.data, layer.weight.quant_state)

    def dtype(self, layer: Any) -> torch.dtype:
        return layer.weight.quant_state.dtype

    def scales(self, layer: Any) -> dict[str, torch.Tensor]:
        return layer.weight.quant_state.as_dict(packed=True)

    def _requantized(self, old: Any, full: torch.Tensor) -> nn.Parameter:
        from bitsandbytes.nn import Params4bit

        new = Params4bit(
            full.contiguous(),
            requires_grad=False,
            blocksize=old.blocksize,
            compress_statistics=old.compress_statistics,
            quant_type=old.quant_type,
            quant_storage=old.quant_storage,
        )
        return new.to(old.device)  # type: ignore[misc]  # its overloads name another class

    def _state(self, layer: nn.Module) -> tuple:
        return ()

    def _put(self, layer: Any, weight: Any, *state: Any) -> None:
        layer.weight = weight
        layer.quant_state = weight.quant_state


class EightBit(Quantized):
    """``bitsandbytes.nn.Linear8bitLt``. From the first forward pass on, its scales are beside the parameter."""

    def _dequantized(self, layer: Any) -> torch.Tensor:
        from bitsandbytes.functional import int8_vectorwise_dequant

        return int8_vectorwise_dequant(layer.weight.data, self.scales(layer)["SCB"])

    def dtype(self, layer: nn.Module) -> torch.dtype:
        # bitsandbytes quantizes from it, whatever the model's.
        return torch.float16

    def scales(self, layer: Any) -> dict[str, torch.Tensor]:
        return {"SCB": layer.weight.SCB if layer.state.SCB is None else layer.state.SCB}

    def _requantized(self, old: Any, full: torch.Tensor) -> nn.Parameter:
        from bitsandbytes.nn import Int8Params

        new = Int8Params(full.contiguous().cpu(), requires_grad=False, has_fp16_weights=False)
        return new.to(old.device)  # type: ignore[misc]  # its overloads name another class

    def _state(self, layer: Any) -> tuple:
        return layer.state.CB, layer.state.SCB

    def _put(self, layer: Any, weight: object, *state: object) -> None:
        layer.weight = weight
        layer.state.CB, layer.state.SCB = state or (None, None)


_PLAIN = Plain()
_QUANTIZED = {"Params4bit": FourBit(), "Int8Params": EightBit()}


def is_quantized(weight: torch.Tensor) -> bool:
    """Whether a parameter holds codes instead of numbers (4-bit codes may be stored as any dtype)."""
    return not weight.is_floating_point() or bool(getattr(weight, "bnb_quantized", False))


def storage_of(layer: Any) -> Storage:
    """How a linear layer keeps its weight. Raises GuidedError for a quantization that is not known here."""
    if not is_quantized(layer.weight):
        return _PLAIN
    kind = type(layer.weight).__name__
    if kind not in _QUANTIZED:
        raise GuidedError(f"a weight of type {kind} is quantized in an unknown way (known: {', '.join(_QUANTIZED)})")
    return _QUANTIZED[kind]


def is_transposed(layer: nn.Module) -> bool:
    """Whether a layer is, or was before it was quantized, one of GPT-2's: its weights are ``[in, out]``."""
    return isinstance(layer, Conv1D) or getattr(layer, "source_cls", None) is Conv1D


def quantized_layers(model: nn.Module) -> dict[str, Any]:
    """Layers by name whose own weight is quantized; not the adapters around them, which show it as theirs."""
    owned = {name: module._parameters.get("weight") for name, module in model.named_modules()}
    return {name: model.get_submodule(name) for name, w in owned.items() if w is not None and is_quantized(w)}


def dequantize(model: PreTrainedModel) -> None:
    """Replace quantized linear layers by plain ones, of the kind that they were, in the model's dtype."""
    for name, layer in quantized_layers(model).items():
        weight = storage_of(layer).read(layer).to(model.dtype).contiguous()
        with torch.device("meta"):
            rows, columns = layer.out_features, layer.in_features
            plain: Any = Conv1D(rows, columns) if is_transposed(layer) else nn.Linear(columns, rows)
        plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), layer.bias
        model.set_submodule(name, plain)


def forbid_packing(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights for inference.

    On processors with AVX512-BF16 it does so in place at a layer's first forward pass in eval mode. From then on that
    layer hands no gradient down, in training mode too.

    Raises:
        GuidedError: if that has happened already. Scales are rounded by it, so that it cannot be undone.
    """
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "support_avx512bf16_for_cpu")}
    for name, layer in layers.items():
        if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise GuidedError(
                f"{name}: its 4-bit weight was packed for inference by an earlier forward pass, and has no gradient "
                "(load the model again, and localize or attach before it runs in eval mode)"
            )
    for layer in layers.values():
        layer.support_avx512bf16_for_cpu = False
