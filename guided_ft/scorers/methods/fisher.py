"""Gradients of single examples: empirical Fisher, coherence, natural gain. None of them needs batches of one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ...anatomy import Anatomy
from ...task.task import Task
from ..watch.fold import Sums, fold, owns_columns, squares, sums
from ..watch.passes import BACKWARD, WEIGHTS, Pass
from ..watch.recorder import Recorder
from ..watch.scene import Scene
from .contrast import single
from .weight_gradient import MeanGradient


class Fisher(Recorder):
    """Score components by the squared gradients of single examples, over the weights that they own.

    ::

        score = mean over examples of the sum over the component's weights w of (d loss(example) / d w)^2

    the empirical Fisher information (FISH: Sung et al. 2021, arXiv 2111.09839; critique: arXiv 1905.12558). No
    gradient of a weight is ever made: with ``x_t`` what enters a projection and ``g_t`` the gradient of what leaves
    it, row ``j`` of the gradient has the squared norm ``sum_tt' g_tj g_t'j (x_t . x_t')``, column ``i`` that with
    ``x`` and ``g`` exchanged (ghost norm: Goodfellow 2015, arXiv 1510.01799; Li et al. 2021, arXiv 2110.05679).

    Cost: one forward and backward pass with frozen weights, for any batch size. Data: labelled examples. Layers,
    heads, neurons. Quantized weights are no obstacle.
    """

    program = ((BACKWARD, 0),)

    def watch(self, scene: Scene, step: int) -> None:
        watch_ghosts(self, scene)

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        return fold(self.anatomy, ghosts(self, 0, len(scene.task)), self.kinds)


class Coherence(MeanGradient):
    """Score components by what their examples' gradients agree on.

    ::

        score = ||mean over examples of g_i||^2 / mean over examples of ||g_i||^2       (0 to 1)

    with ``g_i`` the gradient of example ``i`` on the component's weights: 1 if all pull the same way, 1 / examples
    if they are orthogonal, 0 where there is no gradient (the inverse of gradient diversity: Yin et al. 2017, arXiv
    1706.05699).

    Cost: one forward and one full backward pass; memory for one gradient of all projections. Data: labelled examples.
    Layers, heads, neurons. Needs weights that can have gradients: not quantized ones.
    """

    def watch(self, scene: Scene, step: int) -> None:
        super().watch(scene, step)
        watch_ghosts(self, scene)

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        axis = self.anatomy.rows_axis
        agreed = fold(self.anatomy, lambda name: squares(self.gradient(scene, name), axis), self.kinds)
        single = fold(self.anatomy, ghosts(self, 0, len(scene.task)), self.kinds)
        return {kind: _share(agreed[kind], single[kind]) for kind in self.kinds}


class NaturalGain(MeanGradient):
    """Score components by the loss that they can win per unit of KL divergence spent on what is to be kept.

    ::

        score = sum over the component's weights of g^2 / (F + damping * mean of F)

    with ``g`` the gradient of the task's mean loss and ``F`` the mean over the retain set of the squared gradients of
    single examples, its diagonal Fisher information. A step of natural gradient that costs ``KL = d' F d / 2`` wins
    ``g' F^-1 g / 2`` at best (Amari 1998); on text that the model itself sampled (``retain="self"``) ``F`` is an
    estimate of the true Fisher.

    Args:
        retain: the set to keep; of ``localize(retain="self")`` the model's own text.
        damping: share of the mean of ``F`` that is added, so that weights which retain nothing do not win everything.

    Cost: one full pass over the task, one pass over the retain set; memory for two gradients of all projections.
    Data: labelled examples and a retain set. Layers, heads, neurons. Needs weights that are not quantized.
    """

    program: tuple[tuple[Pass, int], ...] = ((WEIGHTS, 0), (BACKWARD, 1))

    def __init__(self, anatomy: Anatomy, kinds: tuple[str, ...], *, retain: Task, damping: float = 0.1) -> None:
        super().__init__(anatomy, kinds)
        self.retain = (single(retain, "natural_gain"),)
        self.damping = damping

    def watch(self, scene: Scene, step: int) -> None:
        if step == 0:
            super().watch(scene, step)
            return

        def seen(name: str, x: torch.Tensor, g: torch.Tensor) -> None:
            rows, columns = (g, x) if self.anatomy.rows_axis == 0 else (x, g)
            for left, right in zip(scene.joined(rows.float()), scene.joined(columns.float()), strict=True):
                self.add(name, (left.T @ right).square(), torch.float32)

        scene.at_projection_gradients(seen)

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        spent, axis = self.steps[1], self.anatomy.rows_axis
        count = sum(f.numel() for f in spent.values())
        floor = self.damping * sum(float(f.double().sum()) for f in spent.values()) / count
        examples = len(self.retain[0])

        def of(name: str) -> Sums:
            fisher = (spent[name] + floor) / examples
            return sums(self.gradient(scene, name).square() / fisher.clamp(min=torch.finfo(torch.float32).tiny), axis)

        return fold(self.anatomy, of, self.kinds)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, at most 1; 0 where the whole is nothing but rounding."""
    some = whole > 1e-12 * whole.max()
    return np.where(some, np.minimum(part / np.where(some, whole, 1), 1), 0)


def ghost_squares(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Squares of the gradients ``g.T @ x`` of single examples, summed over examples and over each row: ``[out]``.

    Args:
        x, g: inputs and gradients of the outputs, ``[examples, tokens, in]`` and ``[examples, tokens, out]``;
            exchanged, the sums are those of the columns.
    """
    tokens, width_in, width_out = x.shape[1], x.shape[2], g.shape[2]
    if tokens * (width_in + width_out) < width_in * width_out:
        return ((x @ x.mT) @ g * g).sum((0, 1))
    # Many tokens: making the gradient, one example at a time, is cheaper than the products of all pairs of tokens.
    return torch.stack([(one.T @ other).square().sum(1) for one, other in zip(g, x, strict=True)]).sum(0)


def watch_ghosts(recorder: Recorder, scene: Scene) -> None:
    """Note the ``ghost_squares`` of every projection, of those sides only that components own."""

    def seen(name: str, x: torch.Tensor, g: torch.Tensor) -> None:
        x, g = scene.joined(x.float()), scene.joined(g.float())
        columns = owns_columns(recorder.anatomy, recorder.anatomy.relative(name))
        recorder.add(("ghost", name), ghost_squares(g, x) if columns else ghost_squares(x, g))

    scene.at_projection_gradients(seen)


def ghosts(recorder: Recorder, step: int, examples: int) -> Callable[[str], Sums]:
    """Mean over examples of what ``watch_ghosts`` noted, by name of a projection."""
    return lambda name: (recorder.steps[step]["ghost", name] / examples,) * 2
