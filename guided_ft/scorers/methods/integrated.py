"""Integrated gradients: attribution along a path from a baseline to the input."""

from __future__ import annotations

import numpy as np
import torch

from ...anatomy import Anatomy
from ...errors import pick
from ..watch.passes import Path
from ..watch.recorder import Recorder
from ..watch.scene import Scene


class IntegratedGradients(Recorder):
    """Score components by gradients along a straight path of the input embeddings.

    With ``x_k`` the embeddings ``k / steps`` of the way from the baseline to the input, ``a_k`` a component's
    activation and ``g_k`` its gradient there, and the sum over its dimensions and all tokens of an example::

        effect(example) = sum((a_0 - a_steps) * mean of g_1 .. g_steps)         (EAP-IG: Hanna et al. 2024, 2403.17806)
        rule="conductance": sum over k of (a_(k-1) - a_k) * g_k             (Dhamdhere et al. 2018, arXiv 1805.12233)
        score = mean over examples of |effect|; signed=True: of effect

    Gradients at the input alone miss what is saturated there. One step from the baseline ``corrupted`` is attribution
    patching; identical pairs give exactly 0.

    Args:
        steps: gradients on the path.
        baseline: ``zero`` embeddings, or the ``corrupted`` prompt of the pair.

    Cost: ``steps`` forward and backward passes and one forward pass. Data: labelled examples; pairs for
    ``corrupted``. Layers, heads, neurons.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        kinds: tuple[str, ...],
        *,
        steps: int = 5,
        baseline: str = "zero",
        rule: str = "activations",
        signed: bool = False,
    ) -> None:
        super().__init__(anatomy, kinds)
        pick({"zero": 0, "corrupted": 0}, baseline, "baseline")
        self._effect = pick({"activations": self._whole, "conductance": self._stride}, rule, "rule")
        self.program = ((Path(steps, baseline), 0),)
        self.num_steps = steps
        self._size = (lambda e: e) if signed else torch.abs
        self._start: dict[tuple[str, int], torch.Tensor] = {}
        self._total: dict[tuple[str, int], torch.Tensor] = {}

    def watch(self, scene: Scene, step: int) -> None:
        def begin(kind: str, layer: int, a: torch.Tensor) -> None:
            if scene.phase == 0:
                self._start[kind, layer] = a.float()

        def seen(kind: str, layer: int, a: torch.Tensor, g: torch.Tensor) -> None:
            effect = self._effect(scene, (kind, layer), a.float(), g.float())
            if scene.phase == self.num_steps:
                effect = scene.per_example(scene.split(effect.sum(1), kind).sum(-1))
                self.add((kind, layer), self._size(effect).sum(0))

        scene.at_components(self.kinds, begin)
        scene.at_gradients(self.kinds, seen)

    def _whole(self, scene: Scene, key: tuple[str, int], a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        self._total[key] = self._total.pop(key) + g if scene.phase > 1 else g
        return (self._start[key] - a) * self._total[key] / self.num_steps if scene.phase == self.num_steps else g

    def _stride(self, scene: Scene, key: tuple[str, int], a: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        effect = (self._start[key] - a) * g
        self._start[key] = a
        self._total[key] = self._total.pop(key) + effect if scene.phase > 1 else effect
        return self._total[key]

    def done(self, scene: Scene, step: int) -> None:
        self._start.clear()
        self._total.clear()

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        return self.stack(lambda kind, layer: self.steps[0][kind, layer] / len(scene.task))
