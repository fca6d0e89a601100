"""Modules whose forward is another one for a while, so that a pass leaves out what nobody reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ...anatomy import Form, cut_alike


class Forwards:
    """Modules whose forward is another one until ``remove``; their parameters, hooks and places stay."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._own = [(module, module.__dict__.get("forward")) for module in modules]

    def remove(self) -> None:
        for module, forward in self._own:
            if forward is None:
                del module.forward
            else:
                module.forward = forward
        self._own = []


class LeftOut(Forwards):
    """Modules that do nothing; the last one answers with ``hidden``, if given."""

    def __init__(self, modules: Sequence[nn.Module], hidden: torch.Tensor | None, form: Form) -> None:
        super().__init__(modules)
        for module in modules:
            module.forward = lambda *args, **kwargs: form(_entering(*args, **kwargs))
        if modules and hidden is not None:
            modules[-1].forward = lambda *args, **kwargs: form(hidden)


class Columns(Forwards):
    """A module that runs at some tokens only."""

    def __init__(self, module: nn.Module, columns: torch.Tensor) -> None:
        super().__init__([module])
        forward = module.forward

        def run(x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
            if x.ndim != 3:
                # Rows and tokens in one dimension: which is which is not known here.
                return forward(x, *args, **kwargs)
            y = forward(x[:, columns], *cut_alike(x, args, lambda a: a[:, columns]), **kwargs)
            return y.new_zeros(*x.shape[:2], y.shape[-1]).index_copy_(1, columns, y)

        module.forward = run


def _entering(*args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]
