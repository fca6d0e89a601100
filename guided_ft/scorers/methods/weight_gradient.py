"""Scores of the gradient of the mean loss over all examples: norm, relative norm, SNIP, first-order Taylor."""

from __future__ import annotations

import numpy as np
import torch

from ...anatomy import Anatomy
from ..watch.adapted import adapted_weight
from ..watch.fold import Sums, fold, squares, sums
from ..watch.passes import WEIGHTS, Pass
from ..watch.recorder import Recorder
from ..watch.scene import Scene, float_weight


class MeanGradient(Recorder):
    """Base of scorers that need the gradient of the mean loss. Those that run together hold it once."""

    program: tuple[tuple[Pass, int], ...] = ((WEIGHTS, 0),)

    def watch(self, scene: Scene, step: int) -> None:
        self._owner = scene.owners.setdefault("mean gradient", self)
        if self._owner is self:
            name_of = type(self).__name__.lower()
            scene.at_weights(name_of, lambda name, g: self.add(("gradient", name), g, torch.float32))

    def gradient(self, scene: Scene, name: str) -> torch.Tensor:
        """Gradient of the mean loss, stored like the weight, float32."""
        return self._owner.steps[0]["gradient", name] / len(scene.task)


class GradientNorm(MeanGradient):
    """Score components by the norm of the gradient of the mean loss.

    ::

        score = sqrt(sum over the component's weights of (d mean loss / d w)^2)
        relative=True: divided by sqrt(sum of w^2)          (RGN: Lee et al. 2022, arXiv 2210.11466, section 5)

    Unlike ``gradient`` it does not depend on the batch size, and what single examples disagree on cancels.

    Cost: one forward and one full backward pass; memory for one gradient of all projections. Data: labelled examples.
    Layers, heads, neurons. Needs weights that can have gradients: not quantized ones.
    """

    def __init__(self, anatomy: Anatomy, kinds: tuple[str, ...], *, relative: bool = False) -> None:
        super().__init__(anatomy, kinds)
        self.relative = relative

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        axis = self.anatomy.rows_axis_of
        found = fold(self.anatomy, lambda name: squares(self.gradient(scene, name), axis(name)), self.kinds)
        if self.relative:
            size = fold(
                self.anatomy,
                lambda name: squares(float_weight(scene.base, name, "gradient_norm"), axis(name)),
                self.kinds,
            )
            found = {kind: array / np.maximum(size[kind], np.finfo(float).tiny) for kind, array in found.items()}
        return {kind: np.sqrt(array) for kind, array in found.items()}


class Snip(MeanGradient):
    """Score components by weights times gradients of the mean loss.

    ::

        score = sum over the component's weights of |w * d mean loss / d w|   (SNIP: Lee et al. 2018, arXiv 1810.02340)
        whole=True: |sum of w * d mean loss / d w|: the first-order Taylor estimate of removing all of them at once
                                                                (Molchanov et al. 2019, arXiv 1906.10771, eq. 8)

    Cost and data as ``gradient_norm``. Layers, heads, neurons.
    """

    def __init__(self, anatomy: Anatomy, kinds: tuple[str, ...], *, whole: bool = False) -> None:
        super().__init__(anatomy, kinds)
        self.whole = whole

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        def of(name: str) -> Sums:
            weight = adapted_weight(scene, name, "snip")
            product = weight * self.gradient(scene, name).to(weight.device)
            return sums(product if self.whole else product.abs(), self.anatomy.rows_axis_of(name))

        return {kind: np.abs(array) for kind, array in fold(self.anatomy, of, self.kinds).items()}
