"""Short forms for tests of the slice adapter."""

from __future__ import annotations

import torch
from peft import PeftModel, get_peft_model
from torch import nn

from guided_ft.anatomy import Anatomy
from guided_ft.selection.selection import Selection
from guided_ft.slice import SliceConfig, SliceLayer

# Contiguous rows without keys and values; scattered and neighbouring single rows; whole key/value groups.
SELECTIONS = {
    "heads": "L0.H1 L1.H2",
    "neurons": "L0.N3 L0.N17 L0.N18 L1.N5 L1.N47",
    "groups": "L0.H0 L0.H1 L1.H2 L1.H3",
}


def slices_of(model: nn.Module, text: str) -> dict[str, dict]:
    """What a selection trains, in the form that ``SliceConfig`` takes."""
    anatomy = Anatomy.of(model)
    parts = anatomy.trainable(Selection.parse(text, anatomy))
    slices = {part.module: {"axis": part.axis, "index": list(part.index)} for part in parts}
    assert len(slices) == len(parts), "one module occurs with two axes"
    return slices


def attach(model: nn.Module, text: str, *, changed: bool = False) -> PeftModel:
    """Add a slice adapter for a selection: as at birth, or (``changed``) with random deltas."""
    return get_peft_model(model, SliceConfig(slices=slices_of(model, text), init_weights=not changed))


def slice_layers(model: nn.Module) -> dict[str, SliceLayer]:
    """The adapted layers by the names of the modules that they replaced."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return {name: module for name, module in base.named_modules() if isinstance(module, SliceLayer)}


def base_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all tensors of the base model, under the names that they have without an adapter."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    tensors = {n: t for pairs in (base.named_parameters(), base.named_buffers()) for n, t in pairs}
    return {n.replace(".base_layer.", "."): t.detach().clone() for n, t in tensors.items() if ".slice_delta." not in n}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are the same bit for bit."""
    return one.keys() == other.keys() and all(_bits(one[n]).equal(_bits(other[n])) for n in one)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8) if tensor.ndim else tensor.reshape(1).view(torch.uint8)
