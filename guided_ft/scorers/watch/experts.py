"""Neurons of experts as scorers see them: no module's input carries what they say, so it is computed anew.

A layer with experts is one wide MLP: neuron ``n`` of expert ``e`` says ``w_e * f_e(x)[n]`` to the tokens that the
router sends to the expert, with ``w_e`` the router's weight, and 0 to all others. This is its activation here, and what
it adds to the output is the activation times its down column.

Shapes: ``x [tokens, hidden]``, ``top_k_index`` and ``top_k_weights [tokens, k]``; ``N`` neurons of all experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...anatomy import bare
from ...errors import GuidedError

Routed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""What experts get: ``x``, and per token the chosen experts and their weights."""


def find_experts(base: nn.Module, name: str) -> nn.Module | None:
    """Return the module whose parameter a projection is, or None if the projection is a module itself.

    Raises:
        GuidedError: if the experts carry an adapter, or the projection is not the one that all neurons enter.
    """
    parent, _, last = name.rpartition(".")
    holder: Any = base.get_submodule(parent)
    if not isinstance(getattr(bare(holder), last, None), nn.Parameter):
        return None
    if last != "down_proj":
        raise GuidedError(f"{name}: experts share no input, so this method cannot score their weights (try 'gradient')")
    refuse_adapter(parent, holder)
    return holder


def refuse_adapter(name: str, holder: Any) -> None:
    """Raise GuidedError for experts with an adapter whose change is not in their parameters."""
    if holder is not bare(holder) and not holder.merged and not holder.disable_adapters:
        raise GuidedError(f"{name}: these experts carry an adapter (score before it is added or after merge_adapter())")


def activations(experts: Any, routed: Routed) -> torch.Tensor:
    """What every neuron says to every token: ``[tokens, N]``."""
    x, top_k_index, top_k_weights = routed
    num_experts, size = len(experts.down_proj), experts.down_proj.shape[1 if experts.is_transposed else 2]
    said = x.new_zeros(len(x), num_experts, size)
    for expert in range(num_experts):
        tokens, place = torch.where(top_k_index == expert)
        up = experts.gate_up_proj[expert]
        gate_up = x[tokens] @ (up if experts.is_transposed else up.T)
        if experts.has_bias:
            gate_up = gate_up + experts.gate_up_proj_bias[expert]
        said[tokens, expert] = (experts._apply_gate(gate_up) * top_k_weights[tokens, place, None]).to(said)
    return said.flatten(1)


def columns(experts: Any) -> torch.Tensor:
    """The down columns of all neurons: ``[N, hidden]``."""
    return (experts.down_proj if experts.is_transposed else experts.down_proj.transpose(1, 2)).flatten(0, 1)


def pass_through(
    module: nn.Module, routed: Routed, output: torch.Tensor, hook: Callable[[torch.Tensor], torch.Tensor | None]
) -> torch.Tensor:
    """Show the activations to ``hook`` as if a projection got them, and return the output with what it makes of them.

    Gradients reach the activations that ``hook`` saw, although the experts' own graph knows nothing of them.
    """
    experts = bare(module)
    with torch.no_grad():
        said = activations(experts, routed)
        down = columns(experts)
    shown = said.clone().requires_grad_(torch.is_grad_enabled())
    changed = hook(shown)
    if changed is None:
        return _Known.apply(output, shown, down)
    change = changed - said
    moved = change.detach().any(0).nonzero()[:, 0] if not change.requires_grad else slice(None)
    return output + (change[:, moved] @ down[moved]).to(output)


class _Known(torch.autograd.Function):
    """The output as it is, and the gradient of the activations that are known to be in it."""

    @staticmethod
    def forward(ctx: Any, output: torch.Tensor, said: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(down)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:  # type: ignore[override]
        (down,) = ctx.saved_tensors
        return gradient, gradient @ down.T, None
