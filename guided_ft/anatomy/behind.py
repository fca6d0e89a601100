"""The modules of a layer that work on each token by itself."""

from __future__ import annotations

from .anatomy import Anatomy


def behind_attention(anatomy: Anatomy, layer: int) -> list[str]:
    """Names of the out-projection and, where it is one module, of the MLP: they look at one token at a time.

    An MLP of experts is not among them: its router counts the tokens it is given.
    """
    names = [anatomy.out_module(layer)] if anatomy.has_any("head", layer) else []
    block = anatomy.down_module(layer).rpartition(".")[0]
    if block != anatomy.layer_module(layer) and not anatomy.family.experts and anatomy.has_any("neuron", layer):
        names.append(block)
    return names
