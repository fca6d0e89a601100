"""Learned gates: train a scale for every component, with a price on using it, and see which ones are wanted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ...anatomy import KINDS, Anatomy
from ...errors import GuidedError, pick
from ...selection.scoremap import ScoreMap
from ...system.progress import track
from ...task.task import Task
from ..watch.scene import Scene
from ..watch.tap import Tap
from .movement import _endless, with_reference

_LOW, _HIGH, _HEAT = -0.1, 1.1, 0.33
"""Stretch and temperature of the hard concrete distribution (Louizos et al. 2017, arXiv 1712.01312)."""


def gates(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task,
    *,
    kinds: tuple[str, ...] = KINDS,
    penalty: str = "l1",
    strength: float | None = None,
    steps: int = 20,
    lr: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> ScoreMap:
    """Score components by scales that are trained while all weights are frozen.

    ::

        penalty="l1": a <- (1 + A) * a, loss + strength * sum |A|      score = ||A||, with A a vector for a head
        penalty="l0": a <- gate * a,    loss + strength * mean P(gate > 0)            score = P(gate > 0)

    The first asks what the task wants changed (LoFiT: Yin et al. 2024, arXiv 2406.01563, section 3.1), the second
    what it can do without: hard concrete gates (Louizos et al. 2017, arXiv 1712.01312; JoLA: arXiv 2502.01179). Each
    kind is trained by itself, so that layers do not do the work of heads.

    Args:
        strength: of the penalty; None: 5e-4 (l1), 1 (l0).
        steps: batches to train on with Adam, from the first; the task is repeated if it has fewer.
        lr: None: 5e-3 (l1), 0.1 (l0).
        seed: of the gates' noise.

    Cost: ``steps`` forward and backward passes with frozen weights for each kind, and of pairs a forward pass for the
    reference, the model without scales. Data: labelled examples. Layers, heads, neurons.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise GuidedError(f"steps: expected a number from 1 up, got {steps!r}")
    make = pick({"l1": _Scales, "l0": _HardConcrete}, penalty, "penalty")
    task, passes = with_reference(model, task, steps)
    arrays = {}
    for kind in kinds:
        with Tap(model, start_graph=True) as tap:
            scene = Scene(tap, anatomy, task)
            torch.manual_seed(seed)
            device = next(model.parameters()).device
            trained = make(anatomy, kind, device, strength)
            _insert(scene, kind, trained.apply)
            stepper = torch.optim.Adam([trained.parameter], trained.lr if lr is None else lr)
            batches = itertools.islice(_endless(task, device), steps)
            for batch in track(batches, steps, f"gates of {kind}s", progress):
                scene.show(batch)
                trained.draw()
                stepper.zero_grad()
                (scene.loss().mean() + trained.price()).backward()
                stepper.step()
            arrays[kind] = trained.score()
            arrays[kind][[i for i in range(anatomy.num_layers) if not anatomy.has_any(kind, i)]] = 0
    return ScoreMap.of_arrays(anatomy, arrays, {"passes": steps * len(kinds) + passes, "penalty": penalty})


class _Scales:
    """``1 + A`` with the sum of ``|A|`` as its price; a head has one number per dimension."""

    lr = 5e-3

    def __init__(self, anatomy: Anatomy, kind: str, device: torch.device, strength: float | None) -> None:
        width = anatomy.head_dim if kind == "head" else 1
        start = torch.randn(anatomy.num_layers, anatomy.size(kind), width, device=device) * 1e-3
        self.parameter = start.requires_grad_(True)
        self.strength = 5e-4 if strength is None else strength

    def draw(self) -> None:
        """Draw nothing: unlike gates, scales are no random numbers."""

    def apply(self, layer: int, a: torch.Tensor) -> torch.Tensor:
        """``[..., components, width]``, scaled."""
        return a * (1 + self.parameter[layer]).to(a.dtype)

    def price(self) -> torch.Tensor:
        return self.strength * self.parameter.abs().sum()

    def score(self) -> np.ndarray:
        return self.parameter.detach().norm(dim=-1).cpu().numpy()


class _HardConcrete:
    """Gates in 0 to 1 that can be exactly 0 or 1, drawn anew for every batch; the price is the mean chance of not 0."""

    lr = 0.1

    def __init__(self, anatomy: Anatomy, kind: str, device: torch.device, strength: float | None) -> None:
        # Open with a chance of 0.95 or so at the start.
        start = torch.full((anatomy.num_layers, anatomy.size(kind), 1), 2.0, device=device)
        self.parameter = start.requires_grad_(True)
        self.strength = 1.0 if strength is None else strength

    def draw(self) -> None:
        noise = torch.rand_like(self.parameter).clamp(1e-6, 1 - 1e-6)
        soft = torch.sigmoid((noise.logit() + self.parameter) / _HEAT)
        self._gates = (soft * (_HIGH - _LOW) + _LOW).clamp(0, 1)

    def apply(self, layer: int, a: torch.Tensor) -> torch.Tensor:
        return a * self._gates[layer].to(a.dtype)

    def _open(self) -> torch.Tensor:
        return torch.sigmoid(self.parameter - _HEAT * math.log(-_LOW / _HIGH))

    def price(self) -> torch.Tensor:
        return self.strength * self._open().mean()

    def score(self) -> np.ndarray:
        return self._open().detach()[..., 0].cpu().numpy()


def _insert(scene: Scene, kind: str, apply: Callable[[int, torch.Tensor], torch.Tensor]) -> None:
    """Put the gates of one kind into the model."""
    anatomy = scene.anatomy

    def at_layer(layer: int) -> None:
        def hook(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
            return before + apply(layer, (after - before)[..., None, :])[..., 0, :]

        scene.tap.at_layer(anatomy.layer_module(layer), hook)

    def at_input(layer: int) -> None:
        name = {"head": anatomy.out_module, "neuron": anatomy.down_module}[kind](layer)
        scene.tap.at_input(name, lambda a: apply(layer, scene.split(a, kind)).flatten(-2))

    for layer in anatomy.layers_of(kind):
        (at_layer if kind == "layer" else at_input)(layer)
