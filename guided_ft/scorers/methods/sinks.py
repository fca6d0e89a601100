"""Attention sinks and massive activations: where a model parks what it does not use."""

from __future__ import annotations

import numpy as np
import torch

from ...anatomy import Anatomy
from ..watch.passes import FORWARD
from ..watch.recorder import Recorder
from ..watch.scene import Scene


class Sink(Recorder):
    """Score heads by the attention that they waste on the first tokens.

    ::

        head  = mean over later tokens of the attention mass on the first ``sinks`` real tokens   (0 to 1)
        layer = mean over its heads

    (Xiao et al. 2023, arXiv 2309.17453.) Computed with eager attention, which the model is switched to for the pass.

    Cost: one forward pass with eager attention (tokens^2 memory in one layer at a time). Data: any text. Layers, heads.
    """

    program = ((FORWARD, 0),)

    def __init__(self, anatomy: Anatomy, kinds: tuple[str, ...], *, sinks: int = 1) -> None:
        super().__init__(anatomy, kinds)
        self.sinks = sinks

    def watch(self, scene: Scene, step: int) -> None:
        scene.tap.eager_attention()

        def watch(layer: int) -> None:
            def hook(x: torch.Tensor, output: tuple[torch.Tensor, torch.Tensor]) -> None:
                late = scene.without_first(self.sinks)
                weights = output[1].detach().float()  # [rows, heads, queries, keys]
                self.add_tokens(layer, torch.einsum("rhqk,rk->rqh", weights, (scene.mask & ~late).float()), late)

            scene.tap.at_module(scene.anatomy.out_module(layer).rsplit(".", 1)[0], hook)

        for layer in self.anatomy.layers_of("head"):
            watch(layer)

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        def of(kind: str, layer: int) -> torch.Tensor:
            if not self.anatomy.has_any("head", layer):
                return torch.zeros(1)
            mass = self.token_mean(layer)
            return mass if kind == "head" else mass.mean()

        return self.stack(of)


class Massive(Recorder):
    """Score layers and neurons by their outlying activations.

    ::

        layer  = mean over texts of max |h| / median |h|         h: the hidden states that leave the layer
        neuron = mean over texts of max |a| / median |a of all neurons of the layer|

    over all real tokens of a text, the first ones among them (Sun et al. 2024, arXiv 2402.17762). The median is that of
    what is not 0, as most of what ReLU neurons and experts say is; where all is 0, so is the score.

    Cost: one forward pass. Data: any text. Layers, neurons.
    """

    program = ((FORWARD, 0),)

    def watch(self, scene: Scene, step: int) -> None:
        def note(key: object, a: torch.Tensor, each: bool) -> None:
            for row, mask in zip(a.float().abs(), scene.mask, strict=True):
                real = row[mask]
                peak = real.amax(0) if each else real.max()
                spoken = real[real > 0]
                self.add(key, peak / spoken.median() if spoken.numel() else peak)

        if "layer" in self.kinds:
            scene.at_layers(lambda layer, before, after: note(("layer", layer), after, False))
        scene.at_components(
            tuple(k for k in self.kinds if k == "neuron"), lambda kind, layer, a: note((kind, layer), a, True)
        )

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        texts = len(scene.task) * len(scene.task.examples[0])
        return self.stack(lambda kind, layer: self.steps[0][kind, layer] / texts)
