"""Activation statistics: how strongly and how often components speak, whatever they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ...anatomy import Anatomy
from ..watch.adapted import out_columns
from ..watch.passes import FORWARD
from ..watch.recorder import Recorder
from ..watch.scene import Scene, refuse_experts


class Activation(Recorder):
    """Score components by how large their activations are.

    ::

        score = mean over real tokens of ||a||        a: z of a head, post of a neuron, what a layer adds
        written=True: of what reaches the residual stream: ||W_O a|| for a head, |a| * ||w_down|| for a neuron
        small=True:   mean of the kind / (mean of the kind + score): high for what is nearly silent

    Selecting by size or smallness of activation: S2FT (Yang et al. 2024, arXiv 2412.06289), which found that small
    ones are the better choice to train.

    Args:
        sinks: how many first tokens of every text to leave out; attention sinks and massive activations live there
            and would drown the rest (Xiao et al. 2023, arXiv 2309.17453).

    Cost: one forward pass. Data: any text. Layers, heads, neurons.
    """

    program = ((FORWARD, 0),)

    def __init__(
        self,
        anatomy: Anatomy,
        kinds: tuple[str, ...],
        *,
        written: bool = False,
        small: bool = False,
        sinks: int = 1,
    ) -> None:
        super().__init__(anatomy, kinds)
        self.written, self.small, self.sinks = written, small, sinks
        self._metrics: dict[tuple[str, int], torch.Tensor] = {}

    def watch(self, scene: Scene, step: int) -> None:
        def seen(kind: str, layer: int, a: torch.Tensor) -> None:
            parts = scene.split(a.float(), kind)
            norm = self._written(scene, kind, layer, parts) if self.written else parts.norm(dim=-1)
            self.add_tokens((kind, layer), norm, scene.without_first(self.sinks))

        scene.at_components(self.kinds, seen)

    def _written(self, scene: Scene, kind: str, layer: int, a: torch.Tensor) -> torch.Tensor:
        if kind == "layer":
            return a.norm(dim=-1)
        if (kind, layer) not in self._metrics:
            name = self.anatomy.out_module(layer) if kind == "head" else self.anatomy.down_module(layer)
            columns = out_columns(scene, name, "activation").unflatten(1, (a.shape[-2], a.shape[-1]))
            # ||W a||^2 = a' (W' W) a: the width of a head instead of that of the model.
            self._metrics[kind, layer] = torch.einsum("ohd,ohe->hde", columns, columns)
        return torch.einsum("...hd,hde,...he->...h", a, self._metrics[kind, layer], a).clamp(min=0).sqrt()

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        arrays = self.stack(lambda kind, layer: self.token_mean((kind, layer)))
        if self.small:
            arrays = {k: a.mean() / np.maximum(a.mean() + a, np.finfo(float).tiny) for k, a in arrays.items()}
        return arrays


class Frequency(Recorder):
    """Score neurons by how often they fire.

    ::

        score = share of real tokens on which the neuron's gate (or, without gates, its input) is positive

    On the product of gate and up it would mean nothing: its sign is that of the up-projection (LAPE, Tang et al.
    2024, arXiv 2402.16438, counts act(gate) too).

    Args:
        sinks: how many first tokens of every text to leave out.

    Cost: one forward pass. Data: any text. Neurons only.
    """

    program = ((FORWARD, 0),)

    def __init__(self, anatomy: Anatomy, kinds: tuple[str, ...], *, sinks: int = 1) -> None:
        super().__init__(anatomy, kinds)
        self.sinks = sinks

    def watch(self, scene: Scene, step: int) -> None:
        def seen(layer: int, fires: torch.Tensor) -> None:
            self.add_tokens(layer, fires, scene.without_first(self.sinks))

        at_firing(scene, seen)

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        return self.stack(lambda kind, layer: self.token_mean(layer))


def at_firing(scene: Scene, seen: Callable[[int, torch.Tensor], None]) -> None:
    """Call ``seen(layer, fires)``, ``[rows, tokens, neurons]``: whether what goes into the activation is positive."""
    first = scene.anatomy.family.up[0]
    refuse_experts(scene.anatomy, scene.anatomy.module(0, first.module))
    rows = torch.as_tensor(scene.anatomy.neuron_rows(first))

    def watch(layer: int) -> None:
        def hook(x: torch.Tensor, y: torch.Tensor) -> None:
            seen(layer, scene.tokens(y.detach())[..., rows.to(y.device)] > 0)

        scene.tap.at_module(scene.anatomy.module(layer, first.module), hook)

    for layer in scene.anatomy.layers_of("neuron"):
        watch(layer)
