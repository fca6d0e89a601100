"""The hooks of all scorers: a window on a running model that always closes again; and of the guard of gradients.

The engine wraps forwards of its own (``engine/labelled.py``), and the slice adapter hooks mixed batches
(``slice/mixed.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import nn

from ...anatomy import Form, alone, base_model, hidden_of
from ...system import processes
from ...system.eval_mode import evaluating
from .experts import find_experts, pass_through
from .forwards import Columns, LeftOut

TensorHook = Callable[[torch.Tensor], "torch.Tensor | None"]


class Handle(Protocol):
    """What is watched until it is removed; a ``with`` block does so at its end."""

    def remove(self) -> None: ...


class Tap:
    """Watch or change activations inside a ``with`` block, then leave the model as it was found.

    On entry: eval mode, all parameters frozen, gradients put aside. On exit, whatever happened: hooks removed, and
    train mode, ``requires_grad``, gradients and torch's random state restored.

    Args:
        model: a causal LM or a PeftModel of one.
        start_graph: let gradients flow from the embeddings although every parameter is frozen.
    """

    def __init__(self, model: nn.Module, *, start_graph: bool = False) -> None:
        self.model = model
        self.base = base_model(model)
        self.start_graph = start_graph
        self._handles: list[Handle] = []
        self._of_weights: dict[nn.Parameter, list[Callable[[torch.Tensor], None]]] = {}

    def __enter__(self) -> Tap:
        self._mode = ExitStack()
        self._mode.enter_context(evaluating(self.model))
        self._parameters = [(p, p.requires_grad, p.grad) for p in self.model.parameters()]
        self._attention: str | None = None
        self._random = torch.get_rng_state()
        self._cuda_random = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        for parameter, _, _ in self._parameters:
            parameter.grad = None
            parameter.requires_grad_(False)
        if self.start_graph:
            embeddings = self.base.get_input_embeddings()
            self._handles.append(embeddings.register_forward_hook(lambda m, args, out: out.requires_grad_(True)))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._mode.close()
        for parameter, requires_grad, grad in self._parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        if self._attention is not None:
            self.base.set_attn_implementation(self._attention)
        torch.set_rng_state(self._random)
        if self._cuda_random:
            torch.cuda.set_rng_state_all(self._cuda_random)

    def eager_attention(self) -> None:
        """Have the attention weights computed in the open, as the second output of every attention module."""
        current = self.base.config._attn_implementation
        if current != "eager":
            self._attention = current
            self.base.set_attn_implementation("eager")

    def at_input(self, name: str, hook: TensorHook) -> Handle:
        """Call ``hook(activation)`` on what enters a module; what it returns, if anything, replaces it.

        The down projection of experts is a parameter, not a module: there the activations are those of all neurons of
        all experts, ``[tokens, num_neurons]``, weighted by the router and 0 where a token is not sent.
        """
        experts = find_experts(self.base, name)
        if experts is not None:
            return self._keep(experts.register_forward_hook(lambda m, args, out: pass_through(m, args, out, hook)))

        def pre(module: nn.Module, args: tuple) -> tuple | None:
            changed = hook(args[0])
            return None if changed is None else (changed, *args[1:])

        return self._keep(self.base.get_submodule(name).register_forward_pre_hook(pre))

    def at_output(self, name: str, hook: TensorHook) -> Handle:
        """Call ``hook(activation)`` on what leaves a module; what it returns, if anything, replaces it."""

        def post(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
            return hook(output)

        return self._keep(self.base.get_submodule(name).register_forward_hook(post))

    def at_module(self, name: str, hook: Callable[[torch.Tensor, Any], None]) -> Handle:
        """Call ``hook(first input or hidden states, output)`` on a module; it cannot change them."""

        def post(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
            hook(args[0] if args else kwargs["hidden_states"], output)

        return self._keep(self.base.get_submodule(name).register_forward_hook(post, with_kwargs=True))

    def at_layer(self, name: str, hook: Callable[[torch.Tensor, torch.Tensor], torch.Tensor | None]) -> Handle:
        """Call ``hook(hidden_in, hidden_out)`` on a layer; what it returns, if anything, replaces its output."""

        def post(
            module: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor | tuple
        ) -> tuple | torch.Tensor | None:
            hidden = args[0] if args else kwargs["hidden_states"]
            changed = hook(hidden, hidden_of(output))
            if changed is None:
                return None
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return self._keep(self.base.get_submodule(name).register_forward_hook(post, with_kwargs=True))

    def leave_out(self, names: Sequence[str], hidden: torch.Tensor | None = None, form: Form = alone) -> Handle:
        """Run the model without some of its layers: ``names``, of which the last answers with ``hidden``, if given.

        The model's own forward runs around them, so that masks, positions and norms are what they always are.
        ``form``: that of what such layers return.
        """
        return self._keep(LeftOut([self.base.get_submodule(name) for name in names], hidden, form))

    def only_at(self, name: str, columns: torch.Tensor) -> Handle:
        """Run a module that works on each token ``[rows, tokens, width]`` by itself at some; elsewhere it says 0."""
        return self._keep(Columns(self.base.get_submodule(name), columns))

    def at_gradient(self, tensor: torch.Tensor, hook: Callable[[torch.Tensor], None]) -> None:
        """Call ``hook(gradient)`` when the gradient of an activation is known; the hook goes with the graph."""

        def call(gradient: torch.Tensor) -> None:
            hook(gradient)

        if tensor.requires_grad:
            tensor.register_hook(call)

    def at_weight_gradient(self, parameter: nn.Parameter, hook: Callable[[torch.Tensor], None]) -> None:
        """Train a parameter for the time of the block: call ``hook(gradient)``, then drop the gradient.

        Several hooks on one parameter see the same gradient.
        """
        hooks = self._of_weights.setdefault(parameter, [])
        hooks.append(hook)
        if len(hooks) > 1:
            return

        def call(p: torch.Tensor) -> None:
            assert p.grad is not None
            for each in hooks:
                each(p.grad)
            p.grad = None

        parameter.requires_grad_(True)
        self._keep(parameter.register_post_accumulate_grad_hook(call))

    def _keep(self, handle: Handle) -> Handle:
        self._handles.append(handle)
        return handle


class GradientWatch:
    """Note which parameters ever get a gradient that is not finite, without waiting for the device.

    Trainers clip gradients before any callback sees them, and clipping spreads one NaN to all: so it is looked for
    where each gradient is born. One whose norm overflows (above 1e19) is meant too: clipping makes zeros of it.
    """

    def __init__(self) -> None:
        self._handles: list[Handle] = []
        self._finite: dict[str, torch.Tensor] = {}

    def open(self, parameters: dict[str, nn.Parameter]) -> None:
        self.close()
        for name, parameter in parameters.items():
            self._handles.append(parameter.register_post_accumulate_grad_hook(self._note(name)))

    def _note(self, name: str) -> Callable[[torch.Tensor], None]:
        def note(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            grad = processes.local(parameter.grad)
            finite = torch.linalg.vector_norm(grad, dtype=torch.promote_types(grad.dtype, torch.float32)).isfinite()
            self._finite[name] = self._finite[name] & finite if name in self._finite else finite

        return note

    def bad(self) -> list[str]:
        """Names with a gradient that was not finite since the last call."""
        found = list(self._finite.items())
        self._finite.clear()
        if not found:
            return []
        # One copy from the device, which is waited for.
        flags = torch.stack([finite.to(found[0][1].device) for _, finite in found]).tolist()
        return [name for (name, _), finite in zip(found, flags, strict=True) if not finite]

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._finite.clear()
