"""Gradient: how strongly the loss pulls at a component's weights."""

from __future__ import annotations

import numpy as np
import torch

from ..watch.fold import fold, squares
from ..watch.passes import WEIGHTS
from ..watch.recorder import Recorder
from ..watch.scene import Scene


class Gradient(Recorder):
    """Score components by the squared gradients of the weights they own.

    ::

        score = mean over batches of the sum over the component's weights w of (d loss / d w)^2

    where the loss of a batch is the mean over its examples (an empirical Fisher of batches: with ``batch_size=1`` it
    is the usual diagonal one, see arXiv 1905.12558; ``fisher`` is that for any batch size). Larger batches measure
    what their examples agree on.

    Cost: one forward and one full backward pass per batch; one weight's gradient is held at a time. Data: labelled
    examples. Needs weights that can have gradients: quantized models are refused.
    """

    program = ((WEIGHTS, 0),)

    def watch(self, scene: Scene, step: int) -> None:
        def seen(name: str, grad: torch.Tensor) -> None:
            rows, columns = squares(grad / scene.examples, self.anatomy.rows_axis_of(name))
            self.add((name, "rows"), rows)
            self.add((name, "columns"), columns)

        scene.at_weights("gradient", seen)

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        sums, batches = self.steps[0], scene.task.num_batches()
        return fold(
            self.anatomy, lambda name: (sums[name, "rows"] / batches, sums[name, "columns"] / batches), self.kinds
        )
