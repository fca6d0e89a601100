"""Read a model of whose layers nothing is known but the linear layers in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from .family import LINEAR
from .reading import bare, decoder_of, original, read_layers

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_READ_BY_OTHERS = ("out_proj", "x_proj", "dt_proj")
"""Beside a convolution: fused kernels of state spaces take the weights of these themselves, and call no module."""


def has_linear_layers(base: PreTrainedModel) -> bool:
    """Whether a decoder has a list of layers with linear layers in them."""
    where = _where(base)
    return bool(where) and bool(_names(list(getattr(decoder_of(base), where))))


def read_linear(base: PreTrainedModel) -> dict[str, Any]:
    """The fields of ``Anatomy`` for a causal LM with ``has_linear_layers``."""
    where = _where(base)
    # One head, as wide as the residual stream, stands for those that nobody knows; no layer has it.
    width = int(cast("nn.Embedding", original(base.get_input_embeddings())).weight.shape[1])
    counts = dict(num_heads=1, num_groups=1, num_neurons=1, num_experts=0, head_dim=width)
    names = _names(list(getattr(decoder_of(base), where)))
    return read_layers(base, LINEAR, where, names, lambda shapes: counts)


def _where(base: PreTrainedModel) -> str:
    """Name of the longest list of modules in the decoder; empty if it has none."""
    from torch import nn

    lists = {name: len(m) for name, m in decoder_of(base).named_children() if isinstance(m, nn.ModuleList)}
    return max(lists, key=lambda name: lists[name], default="")


def _names(layers: list[nn.Module]) -> list[str]:
    """Linear layers that see every token, by their names relative to a layer, as the layers have them."""
    return list(dict.fromkeys(name for layer in layers for name in _in_module(layer)))


def _in_module(module: nn.Module, prefix: str = "") -> list[str]:
    from torch import nn

    found: list[str] = []
    children = {name: bare(original(child)) for name, child in module.named_children()}
    mixes = any(isinstance(child, nn.Conv1d) for child in children.values())
    for name, child in children.items():
        # A list holds experts, each of which sees some tokens.
        if isinstance(child, nn.ModuleList | nn.ModuleDict) or (mixes and name in _READ_BY_OTHERS):
            continue
        found += [prefix + name] if isinstance(child, nn.Linear) else _in_module(child, f"{prefix}{name}.")
    return found
