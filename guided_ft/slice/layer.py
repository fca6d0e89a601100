"""The layer that adds the trained part of one weight matrix to the frozen base."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..errors import GuidedError
from .delta import ColumnDelta as ColumnDelta
from .delta import Delta as Delta
from .delta import RowDelta as RowDelta
from .mixed import add_by_row


def linear_features(module: nn.Module) -> tuple[int, int] | None:
    """Return ``(in_features, out_features)`` of a linear layer of any kind (Conv1D and quantized ones too)."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return int(module.in_features), int(module.out_features)
    return None


def check_slice(module: nn.Module, axis: int, index: list[int]) -> tuple[int, int]:
    """Return ``linear_features`` of a module that has such rows or columns; raise GuidedError for another one."""
    features = linear_features(module)
    if features is None:
        raise GuidedError(f"slice: cannot train rows of a {type(module).__name__} (only of linear layers)")
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    rows_axis = 1 if isinstance(base, Conv1D) else 0
    limit = features[1] if axis == rows_axis else features[0]
    if index[-1] >= limit:
        raise GuidedError(f"slice: index {index[-1]} is outside axis {axis} (0 to {limit - 1})")
    return features


class SliceLayer(nn.Module, BaseTunerLayer):
    """A linear layer whose chosen rows or columns are trained, with any number of named adapters."""

    # A ModuleDict, so that names read `slice_delta.<adapter>.weight`: TRL copies an adapter by that pattern.
    adapter_layer_names = ("slice_delta",)
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, adapter_name: str, **kwargs: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = check_slice(base_layer, kwargs["axis"], kwargs["index"])
        self.base_layer = base_layer
        self.transposed = isinstance(base_layer, Conv1D)
        self.slice_delta = nn.ModuleDict({})
        self.merged_adapters: list[str] = []
        self._overwritten: list[torch.Tensor] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, **kwargs)

    def update_layer(
        self,
        adapter_name: str,
        *,
        axis: int,
        index: list[int],
        rank: int | None = None,
        init_weights: bool = True,
        inference_mode: bool = False,
    ) -> None:
        """Add an adapter that trains ``index`` along ``axis`` of the stored weight, at this rank or in full."""
        check_slice(self, axis, index)
        by_row = axis == (1 if self.transposed else 0)
        weight = self.get_base_layer().weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        shape = (len(index), self.in_features) if by_row else (self.out_features, len(index))
        delta = (RowDelta if by_row else ColumnDelta)(index, shape, dtype, weight.device, rank)
        if not init_weights:
            delta.randomize()
        self.slice_delta[adapter_name] = delta
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT would also cast to the base's dtype, but the deltas stay float32.
        if adapter_name not in self.slice_delta:
            return
        if all(p.device.type != "meta" for p in self.slice_delta[adapter_name].parameters()):
            self.slice_delta[adapter_name].to(device or self.get_base_layer().weight.device)

    def forward(
        self, x: torch.Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        y = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return y
        if adapter_names is not None:
            return add_by_row(self.slice_delta, adapter_names, x, y)
        for name in self.active_adapters:
            if name in self.slice_delta:
                y = self.slice_delta[name](x, y)
        return y

    def get_delta_weight(self, adapter_name: str) -> torch.Tensor:
        """Return the adapter's change in the shape of the stored weight."""
        dense = self.slice_delta[adapter_name].dense(self.out_features, self.in_features)
        return dense.T if self.transposed else dense

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write the change into the base weight, keeping what it overwrites so that ``unmerge`` is bit-exact."""
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.slice_delta:
                continue
            weight = self.get_base_layer().weight
            if not weight.dtype.is_floating_point or weight.shape.numel() != self.in_features * self.out_features:
                raise GuidedError("merge: the base weights are quantized (load the base unquantized to merge)")
            axis, index = self._stored_axis(name), self.slice_delta[name].index
            before = weight.data.index_select(axis, index)
            change = self.get_delta_weight(name).index_select(axis, index)
            after = (before.to(change.dtype) + change).to(weight.dtype)
            if safe_merge and not torch.isfinite(after).all():
                raise ValueError(f"NaNs detected in the merged weights. The adapter {name} seems to be broken")
            weight.data.index_copy_(axis, index, after)
            self._overwritten.append(before)
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Put back exactly the values that ``merge`` overwrote."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        self.unmerge_to(0)

    def unmerge_to(self, count: int) -> None:
        """Undo the latest merges until ``count`` are left."""
        while len(self.merged_adapters) > count:
            name = self.merged_adapters.pop()
            self.get_base_layer().weight.data.index_copy_(
                self._stored_axis(name), self.slice_delta[name].index, self._overwritten.pop()
            )

    def _stored_axis(self, adapter_name: str) -> int:
        by_row = isinstance(self.slice_delta[adapter_name], RowDelta)
        return int(by_row == self.transposed)

    def __repr__(self) -> str:
        return "slice." + super().__repr__()
