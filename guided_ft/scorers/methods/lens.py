"""Vocabulary projection: what the residual stream, and each component's part of it, says about the answer."""

from __future__ import annotations

import numpy as np
import torch

from ...anatomy import Anatomy
from ...system.files import Json
from ..watch.adapted import out_columns
from ..watch.passes import FORWARD
from ..watch.recorder import Recorder
from ..watch.scene import Scene
from ..watch.unembed import Answers, Unembedding, check_stream, frozen_norm, pull_back, write_scale


class LogitLens(Recorder):
    """Score layers by how much likelier they make the answer, read through the final norm and the unembedding.

    ::

        gain(token) = log p(answer | hidden states after the layer) - log p(answer | before it)       (nats)
        score = mean over examples of |mean over answer tokens of gain|;  signed=True: of gain

    (nostalgebraist 2020; Belrose et al. 2023, arXiv 2303.08112.) The gains of all layers add up to what the model
    says in the end, less what the embeddings alone say.

    Cost: one forward pass, and the unembedding of the answer tokens once per layer. Data: labelled examples. Layers.
    """

    program = ((FORWARD, 0),)

    def __init__(self, anatomy: Anatomy, kinds: tuple[str, ...], *, signed: bool = False) -> None:
        super().__init__(anatomy, kinds)
        self.signed = signed

    def watch(self, scene: Scene, step: int) -> None:
        lens = Unembedding(scene)

        def seen(layer: int, before: torch.Tensor, after: torch.Tensor) -> None:
            answers = Answers.of(scene)
            if layer == 0:
                self._last = lens.read(answers.at(before), answers.token)[0]
            now = lens.read(answers.at(after), answers.token)[0]
            gain = answers.examples(scene, now - self._last)
            self._last = now
            self.add(layer, (gain if self.signed else gain.abs()).sum())

        scene.at_layers(seen)

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        return self.stack(lambda kind, layer: self.steps[0][layer] / len(scene.task))


class ExecutionDepth(Recorder):
    """Score layers by where the answer first appears.

    ::

        score = share of answer tokens whose answer is the most likely next token after this layer, read as in
                ``logit_lens``, and after none before

    Layers beyond the one by which all answers have appeared carry the task out no further; they are what may be
    frozen (execution depth; arXiv 2605.11416 locates it so, its exact formula is not public). ``meta`` has the mean
    ``depth`` (layers, from 1) and the share of tokens that ``never`` appear.

    Cost and data as ``logit_lens``. Layers only.
    """

    program = ((FORWARD, 0),)
    _appeared: torch.Tensor

    def watch(self, scene: Scene, step: int) -> None:
        lens = Unembedding(scene)

        def seen(layer: int, before: torch.Tensor, after: torch.Tensor) -> None:
            answers = Answers.of(scene)
            # Rejected answers are not meant to appear.
            top = lens.read(answers.at(after), answers.token)[1][answers.weight > 0]
            if layer == 0:
                self._appeared = torch.zeros_like(top)
                self.add("tokens", torch.ones_like(top).sum())
            self.add(layer, (top & ~self._appeared).sum())
            self._appeared = top | self._appeared

        scene.at_layers(seen)

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        return self.stack(lambda kind, layer: self._share(layer))

    def _share(self, layer: int) -> torch.Tensor:
        return self.steps[0][layer] / self.steps[0]["tokens"]

    def meta(self) -> Json:
        shares = [float(self._share(layer)) for layer in range(self.anatomy.num_layers)]
        appeared = sum(shares)
        depth = sum((i + 1) * share for i, share in enumerate(shares)) / appeared if appeared else None
        return {"depth": depth, "never": max(0.0, 1 - appeared)}


class DirectLogit(Recorder):
    """Score components by what they write straight into the answer's logit.

    With ``u`` the unembedding of the answer, less the mean over the vocabulary (or less that of the wrong answer,
    where the task has them), pulled back through the final norm with its scale held::

        effect(token) = u . (what the component writes at the token that predicts the answer)         (logits)
        score = mean over examples of |mean over answer tokens of effect|;  signed=True: of effect

    (Elhage et al. 2021; McGrath et al. 2023, arXiv 2307.15771.) What a component does through later ones is not in
    it. Up to biases and the embeddings, heads and neurons add up to the layers, and layers to the answer's logit.

    Cost: one forward pass; memory for the activations at the answer tokens. Data: labelled examples. Layers, heads,
    neurons.
    """

    program = ((FORWARD, 0),)

    def __init__(self, anatomy: Anatomy, kinds: tuple[str, ...], *, signed: bool = False) -> None:
        super().__init__(anatomy, kinds)
        self.signed = signed
        self._noted: dict[tuple[str, int], torch.Tensor] = {}
        self._normed: dict[tuple[str, int], torch.Tensor] = {}

    def watch(self, scene: Scene, step: int) -> None:
        check_stream(scene, "writes")
        self._lens = Unembedding(scene)

        def seen(kind: str, layer: int, a: torch.Tensor) -> None:
            self._noted[kind, layer] = Answers.of(scene).at(a)

        def at_norm(name: str, key: tuple[str, int]) -> None:
            def hook(x: torch.Tensor) -> None:
                self._normed[key] = Answers.of(scene).at(scene.tokens(x.detach()))

            scene.tap.at_input(name, hook)

        scene.at_components(self.kinds, seen)
        at_norm(self._lens.norm_name, ("final", 0))
        for kind, norm in zip(("head", "neuron"), self.anatomy.family.post_norms, strict=True):
            for layer in self.anatomy.layers_of(kind) if norm and kind in self.kinds else ():
                at_norm(self.anatomy.module(layer, norm), (kind, layer))

    def done(self, scene: Scene, step: int) -> None:
        answers = Answers.of(scene)
        up = frozen_norm(self._lens.norm, self._normed["final", 0], self._lens.directions(answers))
        for (kind, layer), a in self._noted.items():
            effect = scene.split(a * self._pulled(scene, kind, layer, a, up), kind).sum(-1)
            effect = answers.examples(scene, effect)
            self.add((kind, layer), (effect if self.signed else effect.abs()).sum(0))
        self._noted.clear()
        self._normed.clear()

    def _pulled(self, scene: Scene, kind: str, layer: int, a: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """The direction in the component's own coordinates."""
        if kind == "layer":
            return up
        up, family = write_scale(scene) * up, self.anatomy.family
        norm, name = {
            "head": (family.post_norms[0], self.anatomy.out_module(layer)),
            "neuron": (family.post_norms[1], self.anatomy.down_module(layer)),
        }[kind]
        if norm:
            module = scene.base.get_submodule(self.anatomy.module(layer, norm))
            up = frozen_norm(module, self._normed[kind, layer], up)
        if self.anatomy.family.of_experts(self.anatomy.relative(name)):
            return up @ out_columns(scene, name, "direct_logit")
        out = scene.base.get_submodule(name)
        dtype = next(scene.base.parameters()).dtype
        return pull_back(out.forward, a.to(dtype), up.to(dtype)).float()

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        return self.stack(lambda kind, layer: self.steps[0][kind, layer] / len(scene.task))
