"""The only place that registers hooks: a window on a running model that always closes again."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import nn

from ..anatomy import base_model
from .experts import find_experts, pass_through

TensorHook = Callable[[torch.Tensor], "torch.Tensor | None"]


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
        self._handles: list[Any] = []

    def __enter__(self) -> Tap:
        self._training = [(m, m.training) for m in self.model.modules()]
        self._parameters = [(p, p.requires_grad, p.grad) for p in self.model.parameters()]
        self._random = torch.get_rng_state()
        self._cuda_random = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self.model.eval()
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
        for module, training in self._training:
            module.training = training
        for parameter, requires_grad, grad in self._parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        torch.set_rng_state(self._random)
        if self._cuda_random:
            torch.cuda.set_rng_state_all(self._cuda_random)

    def at_input(self, name: str, hook: TensorHook) -> Any:
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

    def at_layer(self, name: str, hook: Callable[[torch.Tensor, torch.Tensor], torch.Tensor | None]) -> Any:
        """Call ``hook(hidden_in, hidden_out)`` on a layer; what it returns, if anything, replaces its output."""

        def post(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            first = output[0] if isinstance(output, tuple) else output
            changed = hook(hidden, first)
            if changed is None:
                return None
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return self._keep(self.base.get_submodule(name).register_forward_hook(post, with_kwargs=True))

    def at_gradient(self, tensor: torch.Tensor, hook: Callable[[torch.Tensor], None]) -> None:
        """Call ``hook(gradient)`` when the gradient of an activation is known. It goes with the graph."""

        def call(gradient: torch.Tensor) -> None:
            hook(gradient)

        if tensor.requires_grad:
            tensor.register_hook(call)

    def at_weight_gradient(self, parameter: nn.Parameter, hook: Callable[[torch.Tensor], None]) -> None:
        """Train a parameter for the time of the block: call ``hook(gradient)``, then drop the gradient."""

        def call(p: torch.Tensor) -> None:
            assert p.grad is not None
            hook(p.grad)
            p.grad = None

        parameter.requires_grad_(True)
        self._keep(parameter.register_post_accumulate_grad_hook(call))

    def _keep(self, handle: Any) -> Any:
        self._handles.append(handle)
        return handle


class GradientWatch:
    """Note which parameters ever get a gradient that is not finite, without waiting for the device.

    Trainers clip gradients before any callback sees them, and clipping spreads one NaN to all: so it is looked for
    where each gradient is born.
    """

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._finite: dict[str, torch.Tensor] = {}

    def open(self, parameters: dict[str, nn.Parameter]) -> None:
        self.close()
        for name, parameter in parameters.items():
            self._handles.append(parameter.register_post_accumulate_grad_hook(self._note(name)))

    def _note(self, name: str) -> Callable[[torch.Tensor], None]:
        def note(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            finite = torch.isfinite(parameter.grad).all()
            self._finite[name] = self._finite[name] & finite if name in self._finite else finite

        return note

    def bad(self) -> list[str]:
        """Names with a gradient that was not finite since the last call."""
        names = list(self._finite)
        flags = torch.stack([f.to("cpu", non_blocking=True) for f in self._finite.values()]) if names else []
        self._finite.clear()
        return [name for name, finite in zip(names, flags, strict=True) if not finite]

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._finite.clear()
