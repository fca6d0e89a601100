"""Attribution: gradient x activation, the first-order estimate of removing or replacing a component."""

from __future__ import annotations

import numpy as np
import torch

from ...anatomy import Anatomy
from ...errors import pick
from ...system.files import Json
from ..watch.passes import BACKWARD, FORWARD, PAIRS
from ..watch.recorder import Recorder
from ..watch.scene import Scene

_PROGRAMS = {"zero": ((BACKWARD, 0),), "mean": ((FORWARD, 0), (BACKWARD, 0)), "corrupted": ((PAIRS, 0),)}


class Attribution(Recorder):
    """Score every head, neuron and layer in one forward and backward pass per batch.

    With ``a`` the activation of a component (a head's part of the input of the out-projection, a neuron's of the
    down-projection, what a layer adds to the residual stream), ``b`` what replaces it, ``g = d loss / d a`` and the
    sum over its dimensions and all tokens of an example::

        effect(example) = sum((b - a) * g)           (attribution patching; Nanda 2023, Kramar et al. 2403.00745)
        score = mean over examples of |effect|       (b = 0: Michel et al. 2019, arXiv 1905.10650, eq. 4)
        signed=True:  mean over examples of effect   (nats; positive: the loss rises without the component)
        squared=True: mean over examples of effect^2 (b = 0: Molchanov et al. 2019, arXiv 1906.10771, eq. 8)

    The effect estimates the exact change of the loss that ``ablation`` measures.

    Args:
        replace: ``zero``; ``mean``: the component's mean over all real tokens of the task; ``corrupted``: its
            activation on the corrupted prompt of the pair (identical pairs give exactly 0).

    Cost: one pass, weights frozen, nothing kept but the sums; ``mean`` and ``corrupted`` take one forward pass more.
    Data: labelled examples; pairs for ``corrupted``.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        kinds: tuple[str, ...],
        *,
        replace: str = "zero",
        signed: bool = False,
        squared: bool = False,
    ) -> None:
        super().__init__(anatomy, kinds)
        self.program = pick(_PROGRAMS, replace, "replace")
        self.replace = replace
        self._size = (lambda e: e) if signed else torch.square if squared else torch.abs
        self._other: dict[tuple[str, int], torch.Tensor] = {}
        self._parts: dict[tuple[str, int], torch.Tensor] = {}

    def watch(self, scene: Scene, step: int) -> None:
        if self.program[step] == (FORWARD, 0):
            scene.at_components(self.kinds, lambda kind, layer, a: self.add_tokens((kind, layer), a, scene.mask))
        elif self.replace == "zero":
            scene.at_products(self.kinds, lambda kind, layer, p: self._note(scene, kind, layer, -p.sum(1)))
        elif self.replace == "mean":
            scene.at_products(self.kinds, lambda kind, layer, p: self._part(scene, kind, layer, -p.sum(1)))
            scene.at_gradients_alone(self.kinds, lambda kind, layer, g: self._toward_mean(scene, kind, layer, g))
        else:
            scene.at_components(self.kinds, lambda kind, layer, a: self._keep(scene, kind, layer, a))
            scene.at_gradients(self.kinds, lambda kind, layer, a, g: self._toward_other(scene, kind, layer, a, g))

    def _keep(self, scene: Scene, kind: str, layer: int, a: torch.Tensor) -> None:
        if scene.phase == "corrupted":
            self._other[kind, layer] = a

    def _toward_other(self, scene: Scene, kind: str, layer: int, a: torch.Tensor, g: torch.Tensor) -> None:
        other = self._other.pop((kind, layer))
        self._note(scene, kind, layer, ((other - a).float() * g.float()).sum(1))

    def _toward_mean(self, scene: Scene, kind: str, layer: int, g: torch.Tensor) -> None:
        mean = self.token_mean((kind, layer)).to(g.device).float()
        self._part(scene, kind, layer, mean * g.float().sum(1))

    def _part(self, scene: Scene, kind: str, layer: int, effect: torch.Tensor) -> None:
        """One of the two parts of an effect; with the second one it is complete."""
        if (kind, layer) in self._parts:
            self._note(scene, kind, layer, self._parts.pop((kind, layer)) + effect)
        else:
            self._parts[kind, layer] = effect

    def _note(self, scene: Scene, kind: str, layer: int, effect: torch.Tensor) -> None:
        """``effect [rows, components * width]``."""
        effect = scene.per_example(scene.split(effect, kind).sum(-1))
        self.add((kind, layer), self._size(effect).sum(0))

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        return self.stack(lambda kind, layer: self.steps[-1][kind, layer] / len(scene.task))

    def meta(self) -> Json:
        return {"replace": self.replace}
