"""The layer that adds the trained part of one weight matrix to the frozen base."""

from __future__ import annotations

import random
import warnings
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..errors import GuidedError
from .config import pack_index
from .delta import ColumnDelta as ColumnDelta
from .delta import Delta as Delta
from .delta import RowDelta as RowDelta
from .mixed import add_by_row
from .storage import is_transposed, storage_of


def linear_features(module: nn.Module) -> tuple[int, int] | None:
    """Return ``(in_features, out_features)`` of a linear layer of any kind (Conv1D and quantized ones too)."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    features = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return None if features[0] is None or features[1] is None else (int(features[0]), int(features[1]))


def broken(adapter_name: str) -> ValueError:
    """What a safe merge raises, in PEFT's words."""
    return ValueError(f"NaNs detected in the merged weights. The adapter {adapter_name} seems to be broken")


def base_of(module: nn.Module) -> nn.Module:
    """Return the module inside adapters, or the module itself."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def check_slice(module: nn.Module, axis: int, index: list[int]) -> tuple[int, int]:
    """Return ``linear_features`` of a module that has such rows or columns; raise GuidedError for another one."""
    base = base_of(module)
    features = linear_features(base)
    if features is None:
        experts = "; experts take {'neurons': {expert: index}}" if hasattr(base, "num_experts") else ""
        raise GuidedError(f"slice: cannot train rows of a {type(base).__name__} (only of linear layers{experts})")
    if not isinstance(getattr(base, "weight", None), torch.Tensor):
        raise GuidedError(
            f"slice: {type(base).__name__} keeps its weight in a way that is not known here (full precision, and "
            "bitsandbytes' 4 and 8 bits, are)"
        )
    if base.weight.is_meta and hasattr(base, "_hf_hook"):
        raise GuidedError("slice: its weight is not in memory (load the layers that train onto a device)")
    limit = features[1] if axis == int(is_transposed(base)) else features[0]
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
        options = ("rank", "init_weights", "inference_mode")
        self.in_features, self.out_features = self.check(
            base_layer, **{key: value for key, value in kwargs.items() if key not in options}
        )
        self.base_layer = base_layer
        self.transposed = is_transposed(base_layer)
        self.slice_delta = nn.ModuleDict({})
        self.merged_adapters: list[str] = []
        self._overwritten: list[Any] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, **kwargs)

    check = staticmethod(check_slice)
    """Return the layer's features if it can train what ``update_layer`` is told to, or raise GuidedError."""

    @staticmethod
    def draw(module: nn.Module, fraction: float, generator: random.Random) -> dict[str, Any]:
        """Draw a share of a module's output rows: arguments of ``update_layer``."""
        base = base_of(module)
        features = linear_features(base)
        if features is None:
            raise GuidedError(f"cannot draw rows of a {type(base).__name__} (only of linear layers)")
        rows = generator.sample(range(features[1]), max(1, round(fraction * features[1])))
        return {"axis": int(is_transposed(base)), "index": sorted(rows)}

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
        weight = self.stored_weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        shape = (len(index), self.in_features) if by_row else (self.out_features, len(index))
        delta = (RowDelta if by_row else ColumnDelta)(index, shape, dtype, weight.device, rank)
        if not init_weights:
            delta.randomize()
        self.slice_delta[adapter_name] = delta
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    @property
    def stored_weight(self) -> torch.Tensor:
        """The base weight, which has the device and the dtype of the layer."""
        return self.get_base_layer().weight  # type: ignore[return-value]

    def _delta(self, adapter_name: str) -> Delta:
        return cast(Delta, self.slice_delta[adapter_name])

    def factors(self, adapter_name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``B [out, r]`` and ``A [r, in]`` with ``B @ A`` exactly an adapter's change."""
        return self._delta(adapter_name).factors(self.out_features, self.in_features)

    def spec(self, adapter_name: str) -> dict[str, Any]:
        """What an adapter trains here, in the form of ``SliceConfig.slices``."""
        return {
            "axis": self._stored_axis(adapter_name),
            "index": pack_index(self._delta(adapter_name).index.tolist()),
        }

    def fits(self, adapter_name: str, index: torch.Tensor) -> bool:
        """Whether an adapter of this layer can have such an index."""
        limit = self.out_features if isinstance(self.slice_delta[adapter_name], RowDelta) else self.in_features
        if index.dtype != torch.int64 or index.unique().numel() != index.numel():
            return False
        return int(index.min()) >= 0 and int(index.max()) < limit

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT would also cast to the base's dtype, but the deltas stay float32.
        if adapter_name not in self.slice_delta:
            return
        if all(p.device.type != "meta" for p in self.slice_delta[adapter_name].parameters()):
            self.slice_delta[adapter_name].to(device or self.stored_weight.device)

    def forward(
        self, x: torch.Tensor, *args: object, adapter_names: list[str] | None = None, **kwargs: object
    ) -> torch.Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        y = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return y
        if adapter_names is not None:
            return add_by_row(self.slice_delta, adapter_names, x, y)
        own = self._output_is_ours()
        for name in self.active_adapters:
            if name in self.slice_delta:
                y, own = self.slice_delta[name](x, y, own), True
        return y

    def _output_is_ours(self) -> bool:
        """Whether what the base layer returns may be written over: torch's own layers make it afresh and do not keep
        it, while others may return a view that must not be written, or hold on to it, as hooks may."""
        base = self.base_layer
        return type(base) in (nn.Linear, Conv1D) and not base._forward_hooks

    def get_delta_weight(self, adapter_name: str) -> torch.Tensor:
        """Return the adapter's change in the shape of the stored weight."""
        dense = self._delta(adapter_name).dense(self.out_features, self.in_features)
        return dense.T if self.transposed else dense

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write the change into the base weight, keeping what it overwrites so that ``unmerge`` is bit-exact."""
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.slice_delta:
                continue
            self._overwritten.append(self._write(name, safe_merge))
            self.merged_adapters.append(name)

    def _write(self, adapter_name: str, safe_merge: bool) -> Any:
        """Add an adapter's change to the base weight; return what was there."""
        base = self.get_base_layer()
        storage = storage_of(base)
        axis, index = self._stored_axis(adapter_name), self._delta(adapter_name).index
        before = storage.read(base).index_select(axis, index)
        change = self.get_delta_weight(adapter_name).index_select(axis, index)
        after = (before.to(change.dtype) + change).to(storage.dtype(base))
        if safe_merge and not torch.isfinite(after).all():
            raise broken(adapter_name)
        return storage.write(base, axis, index, after)

    def _put_back(self, adapter_name: str, kept: Any) -> None:
        """Undo ``_write``."""
        base = self.get_base_layer()
        storage_of(base).restore(base, kept)

    def unmerge(self) -> None:
        """Put back exactly the values that ``merge`` overwrote."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        self.unmerge_to(0)

    def unmerge_to(self, count: int) -> None:
        """Undo the latest merges until ``count`` are left."""
        while len(self.merged_adapters) > count:
            self._put_back(self.merged_adapters.pop(), self._overwritten.pop())

    def _stored_axis(self, adapter_name: str) -> int:
        by_row = isinstance(self.slice_delta[adapter_name], RowDelta)
        return int(by_row == self.transposed)

    def __repr__(self) -> str:
        return "slice." + super().__repr__()
