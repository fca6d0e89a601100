"""Wanda: weights times the activations that they meet."""

from __future__ import annotations

import numpy as np
import torch

from ..watch.adapted import adapted_weight
from ..watch.fold import Sums, fold, sums
from ..watch.passes import FORWARD
from ..watch.recorder import Recorder
from ..watch.scene import Scene


class Wanda(Recorder):
    """Score components by their weights times the norms of the inputs of these.

    ::

        score = sum over the component's weights of |W_ij| * sqrt(mean over real tokens of x_j^2)
                                                                       (Sun et al. 2023, arXiv 2306.11695, eq. 1)

    Cost: one forward pass. Data: any text. Layers, heads, neurons. Needs weights that can be read: not quantized ones.
    """

    program = ((FORWARD, 0),)

    def watch(self, scene: Scene, step: int) -> None:
        def seen(name: str, x: torch.Tensor) -> None:
            self.add_tokens(name, x.float().square(), scene.mask)

        scene.at_projections(seen)

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        axis = self.anatomy.rows_axis

        def of(name: str) -> Sums:
            weight = adapted_weight(scene, name, "wanda").abs()
            norm = self.token_mean(name).sqrt().float().to(weight.device)
            return sums(weight * norm.unsqueeze(axis), axis)

        return fold(self.anatomy, of, self.kinds)
