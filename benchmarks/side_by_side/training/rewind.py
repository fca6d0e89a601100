"""Rewinding: what a share of the change that was trained scores and forgets. No training is needed.

A LoRA is scaled. Weights that were trained in full are mixed with the base's (WiSE-FT, arXiv 2109.01903).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from guided_ft.system.files import Json

from ..rows.rows import SHARES

if TYPE_CHECKING:
    from guided_ft.task.given import Row

    from ..suites.suite import Lab, Problem


def rewound(lab: Lab, model: torch.nn.Module, problem: Problem, test: list[Row], validation: list[Row]) -> list[Json]:
    """Score, validation score and forgetting of each of ``SHARES`` of the change; empty for what cannot be scaled."""
    points: list[Json] = []
    for share in SHARES if _can(model) else ():
        with _scaled(lab, model, share):
            point = {"score": lab.score(model, problem, test), "validation": lab.score(model, problem, validation)}
            points.append({"share": share, **point, "forgetting": lab.forgetting(model)["forgetting"]})
    return points


def _can(model: torch.nn.Module) -> bool:
    return not isinstance(model, PeftModel) or any(isinstance(module, LoraLayer) for module in model.modules())


@contextlib.contextmanager
def _scaled(lab: Lab, model: torch.nn.Module, share: float) -> Iterator[None]:
    """Hold the model at a share of its change; it comes back bit for bit."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    scaling = [dict(layer.scaling) for layer in layers]
    base = {} if layers else dict(lab.model().named_parameters())
    kept = {name: p.detach().clone() for name, p in model.named_parameters() if name in base}
    try:
        for layer, factors in zip(layers, scaling, strict=True):
            layer.scaling.update({name: share * factor for name, factor in factors.items()})
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in base:
                    p.lerp_(base[name].to(p.device), 1 - share)
        yield
    finally:
        for layer, factors in zip(layers, scaling, strict=True):
            layer.scaling.update(factors)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in kept:
                    p.copy_(kept[name])
