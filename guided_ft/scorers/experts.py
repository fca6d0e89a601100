"""Neurons of experts as scorers see them: no module's input carries what they say, so it is computed anew.

A layer with experts is one wide MLP: neuron ``n`` of expert ``e`` says ``w_e * f_e(x)[n]`` to the tokens that the
router sends to the expert, with ``w_e`` the router's weight, and 0 to all others. This is its activation here, and what
it adds to the output is the activation times its down column.

Shapes: ``x [tokens, hidden]``, ``top_k_index`` and ``top_k_weights [tokens, k]``; an expert has ``size`` neurons.
"""

from __future__ import annotations

from typing import Any

import torch

from ..anatomy import Anatomy, Component
from ..errors import GuidedError
from .tap import Routed, Tap


def experts_of(tap: Tap, anatomy: Anatomy, layer: int) -> Any:
    """Return the experts of a layer. Raises GuidedError if an adapter changes their weights."""
    name = anatomy.experts_module(layer)
    module: Any = tap.base.get_submodule(name)
    if not hasattr(module, "base_layer"):
        return module
    if not module.merged and not module.disable_adapters:
        raise GuidedError(f"{name}: these experts carry an adapter (score before it is added or after merge_adapter())")
    return module.get_base_layer()


def activation(experts: Any, routed: Routed, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens ``[t]`` that an expert gets, and its neurons' activations there: ``[t, size]``."""
    x, top_k_index, top_k_weights = routed
    tokens, place = torch.where(top_k_index == expert)
    up = experts.gate_up_proj[expert]
    gate_up = x[tokens] @ (up if experts.is_transposed else up.T)
    if experts.has_bias:
        gate_up = gate_up + experts.gate_up_proj_bias[expert]
    return tokens, experts._apply_gate(gate_up) * top_k_weights[tokens, place, None]


def columns(experts: Any, expert: int) -> torch.Tensor:
    """The down columns of an expert's neurons: ``[size, hidden]``."""
    down = experts.down_proj[expert]
    return down if experts.is_transposed else down.T


def products(experts: Any, routed: Routed, gradient: torch.Tensor, rows: int, size: int) -> torch.Tensor:
    """Activation times its gradient, summed over the tokens of each row: ``[rows, experts * size]``.

    Args:
        gradient: of the experts' output, ``[tokens, hidden]``.
    """
    total = torch.zeros(rows, len(experts.down_proj), size, device=gradient.device)
    for expert in range(total.shape[1]):
        tokens, said = activation(experts, routed, expert)
        product = said.float() * (gradient[tokens].float() @ columns(experts, expert).float().T)
        total[:, expert].index_add_(0, tokens // (len(gradient) // rows), product)
    return total.flatten(1)


def watch_activations(tap: Tap, anatomy: Anatomy, layer: int, add: Any) -> Any:
    """Call ``add(activations [tokens, num_neurons])`` in every forward pass of a layer's experts."""
    experts = experts_of(tap, anatomy, layer)

    def seen(routed: Routed, output: torch.Tensor) -> None:
        said = output.new_zeros(len(output), anatomy.num_experts, anatomy.neurons_per_expert)
        for expert in range(anatomy.num_experts):
            tokens, found = activation(experts, routed, expert)
            said[tokens, expert] = found.to(said)
        add(said.flatten(1))

    return tap.at_experts(anatomy.experts_module(layer), seen)


def remove_neuron(tap: Tap, anatomy: Anatomy, neuron: Component, mean: torch.Tensor | None = None) -> Any:
    """Make a neuron say nothing, or the same to every token: its ``mean`` of ``[num_neurons]`` in its layer."""
    experts = experts_of(tap, anatomy, neuron.layer)
    assert neuron.expert is not None
    expert, column = neuron.expert, columns(experts, neuron.expert)[neuron.index]

    def replace(routed: Routed, output: torch.Tensor) -> torch.Tensor:
        tokens, said = activation(experts, routed, expert)
        change = torch.zeros(len(output), 1).to(output)
        if mean is not None:
            change += mean[anatomy.position(neuron)].to(output)
        change[tokens] -= said[:, neuron.index, None].to(output)
        return output + change * column

    return tap.at_experts(anatomy.experts_module(neuron.layer), replace)
