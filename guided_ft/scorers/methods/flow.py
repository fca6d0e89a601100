"""How much a layer turns the residual stream: Block Influence and angular distance."""

from __future__ import annotations

import numpy as np
import torch

from ...anatomy import Anatomy
from ..watch.passes import FORWARD
from ..watch.recorder import Recorder
from ..watch.scene import Scene


class BlockInfluence(Recorder):
    """Score layers by how far they turn the residual stream.

    ::

        score = 1 - mean over real tokens of cos(h_in, h_out)        (Men et al. 2024, arXiv 2403.03853, eq. 1)

    Args:
        sinks: how many first tokens of every text to leave out: on them one huge dimension makes every cosine 1.

    Cost: one forward pass. Data: any text. Layers only.
    """

    program = ((FORWARD, 0),)

    def __init__(self, anatomy: Anatomy, kinds: tuple[str, ...], *, sinks: int = 1) -> None:
        super().__init__(anatomy, kinds)
        self.sinks = sinks

    def watch(self, scene: Scene, step: int) -> None:
        def seen(layer: int, before: torch.Tensor, after: torch.Tensor) -> None:
            cosine = torch.cosine_similarity(before.float(), after.float(), dim=-1)
            self.add_tokens(layer, self.turn(cosine), scene.without_first(self.sinks))

        scene.at_layers(seen)

    def turn(self, cosine: torch.Tensor) -> torch.Tensor:
        return 1 - cosine

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        # Rounding makes a cosine of 1 a little larger, and ratios take no scores below 0.
        return self.stack(lambda kind, layer: self.token_mean(layer).clamp(min=0))


class Angular(BlockInfluence):
    """Score layers by the angle by which they turn the residual stream.

    ::

        score = mean over real tokens of arccos(cos(h_in, h_out)) / pi     (Gromov et al. 2024, arXiv 2403.17887, eq. 6)

    (There of the last token and of blocks of layers; here of each layer and all tokens but the first.)

    Cost: one forward pass. Data: any text. Layers only.
    """

    def turn(self, cosine: torch.Tensor) -> torch.Tensor:
        return cosine.clamp(-1, 1).arccos() / torch.pi
