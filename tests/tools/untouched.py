"""What must be the same before and after a model was looked at (law 6)."""

from __future__ import annotations

import torch
from families import make


def hooks_of(model) -> int:
    stores = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = sum(len(getattr(m, s)) for m in model.modules() for s in stores)
    return hooks + sum(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters())


def state_of(model):
    return (
        hooks_of(model),
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        torch.get_rng_state().tolist(),
    )


def prepared(family):
    model = make(family)
    model.train()
    model.model.embed_tokens.weight.requires_grad_(False) if family == "llama" else None
    parameter = next(p for p in model.parameters() if p.requires_grad)
    parameter.grad = torch.ones_like(parameter)
    return model


def equal(a, b) -> bool:
    grads = all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a[3], b[3], strict=True))
    return a[:3] == b[:3] and grads and a[4] == b[4]


class Broken(Exception):
    pass
