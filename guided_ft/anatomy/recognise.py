"""Take an unlisted family for a listed one of the same modules and parameters. Whether that is true is proved then."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .families import FAMILIES
from .family import Family
from .reading import decoder_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def recognised(base: PreTrainedModel) -> Family | None:
    """The first row of ``FAMILIES`` that accounts for every parameter of every layer, or None.

    A likeness, not a proof: how a family with the same parts wires them is for ``prove`` to find out.
    """
    decoder: Any = decoder_of(base)
    heads = getattr(base.config.get_text_config(), "num_attention_heads", None)
    if not isinstance(heads, int):
        return None
    return next((family for family in FAMILIES if _looks_like(decoder, family, heads)), None)


def _looks_like(decoder: nn.Module, family: Family, heads: int) -> bool:
    layers = getattr(decoder, family.layers, None)
    if not layers or not hasattr(decoder, family.final_norm) or family.when or family.linear:
        return False
    return all(_accounts_for(layer, family, heads) for layer in layers)


def _accounts_for(layer: nn.Module, family: Family, heads: int) -> bool:
    names = {name: parameter.shape for name, parameter in layer.named_parameters()}
    weights = {p if family.of_experts(p) else f"{p}.weight" for p in family.projections}
    norms = {norm for norm in (*family.norms, *family.post_norms) if norm}
    modules = {name for name, _ in layer.named_modules()}
    if not weights <= set(names) or not norms <= modules:
        return False
    attention = family.out.rpartition(".")[0]
    inside = [n for n in names if attention and n.startswith(f"{attention}.") and re.search(r"norm", n)]
    width = names[f"{family.query.module}.weight"][int(family.transposed)] // heads
    if family.joint_norm != any(names[n].numel() > width for n in inside):
        return False
    rest = set(names) - weights
    return all(_is_beside(name, len(names[name]), family, norms, attention) for name in rest)


def _is_beside(name: str, dims: int, family: Family, norms: set[str], attention: str) -> bool:
    """Whether a parameter is a bias or a norm that the row has a place for, a sink, or the router of its experts."""
    module = name.rpartition(".")[0]
    if module in (*family.projections, *norms) or family.of_experts(name):
        return dims == 1 or family.of_experts(name)
    if family.experts and module.rpartition(".")[0] == family.experts.rpartition(".")[0]:
        return bool(re.search(r"(^|\.)(gate|router)", name))
    return bool(attention) and name.startswith(f"{attention}.") and dims == 1
