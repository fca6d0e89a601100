"""Comparisons of two or more sets of text: who speaks differently, and who speaks for one set only."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import torch

from ...anatomy import Anatomy
from ...errors import GuidedError, pick
from ...task.task import Task
from ..watch.passes import FORWARD
from ..watch.recorder import Recorder
from ..watch.scene import Scene
from .activation import at_firing

WHICH = {
    "all": lambda scene, sinks: scene.without_first(sinks),
    "answer": lambda scene, sinks: scene.mask & (scene.batch["labels"] != -100),
    "last": lambda scene, sinks: scene.mask & (scene.mask.cumsum(1) == scene.mask.sum(1, keepdim=True)),
}
"""Which tokens count: all but the first, those of the answers, or the last one of every text."""


class Contrast(Recorder):
    """Score components by how differently they are active in two sets.

    ::

        score = sqrt(mean over dimensions of (mean of a in the task - mean of a in the other)^2 / pooled variance)
        standard=False: the Euclidean norm of the difference of the means

    over tokens; for a neuron the first is Cohen's |d|. (The difference of means of contrastive sets is the steering
    vector of Rimsky et al. 2023, arXiv 2312.06681; the gap that finds safety layers: Li et al. 2024, arXiv 2408.17003.)

    Args:
        retain: the other set.
        tokens: ``all`` but the first ``sinks`` of every text, those of the ``answer``, or the ``last`` one.

    Cost: one forward pass over both sets. Data: two sets. Layers, heads, neurons.
    """

    program = ((FORWARD, 0), (FORWARD, 1))

    def __init__(
        self,
        anatomy: Anatomy,
        kinds: tuple[str, ...],
        *,
        retain: Task,
        tokens: str = "all",
        standard: bool = True,
        sinks: int = 1,
    ) -> None:
        super().__init__(anatomy, kinds)
        self.retain = (single(retain, "contrast"),)
        self.standard, self.sinks = standard, sinks
        self._which = pick(WHICH, tokens, "tokens")

    def watch(self, scene: Scene, step: int) -> None:
        def seen(kind: str, layer: int, a: torch.Tensor) -> None:
            mask = self._which(scene, self.sinks)
            self.add_tokens((kind, layer), a.float(), mask)
            self.add_tokens((kind, layer, "square"), a.double().square(), mask)

        scene.at_components(self.kinds, seen)

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        def of(kind: str, layer: int) -> torch.Tensor:
            means = [self.token_mean((kind, layer), step) for step in (0, 1)]
            squares = [self.token_mean((kind, layer, "square"), step) for step in (0, 1)]
            gap = scene.split((means[0] - means[1]).square(), kind)
            if not self.standard:
                return gap.sum(-1).sqrt()
            variance = sum((s - m.square()).clamp(min=0) for m, s in zip(means, squares, strict=True)) / 2
            # Rounding leaves a constant dimension a variance a little off zero.
            floor = 1e-12 * sum(squares).clamp(min=torch.finfo(torch.float64).tiny)  # type: ignore[union-attr]
            return (gap / scene.split(variance.clamp(min=floor), kind)).mean(-1).sqrt()  # type: ignore[union-attr]

        return self.stack(of)


class Specificity(Recorder):
    """Score components by how unevenly they speak in several sets, such as languages, domains or modalities.

    ::

        p_k   = share of tokens of set k on which the neuron fires; of a head or layer, mean norm of its activation
        score = log(number of sets) - entropy of p / sum(p)       (nats; high: specific to few sets)
        score = 0 where no p_k is above the ``bar`` quantile of all p of the kind (it hardly speaks at all)

    (LAPE: Tang et al. 2024, arXiv 2402.16438, section 2.2.) Groups of tokens inside the same texts are sets too: give
    the texts once for each group, labels only on its tokens, and ``tokens="answer"``.

    Args:
        retain: the other sets: a Task or a list of them. The first set is the task.
        only: number of the set that a component must speak most in to score (0: the task); None: any.
        tokens, sinks: as in ``contrast``.

    Cost: one forward pass over all sets. Data: two or more sets. Layers, heads, neurons.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        kinds: tuple[str, ...],
        *,
        retain: Task | Iterable[Task],
        only: int | None = None,
        bar: float = 0.0,
        tokens: str = "all",
        sinks: int = 1,
    ) -> None:
        super().__init__(anatomy, kinds)
        self.retain = (retain,) if isinstance(retain, Task) else tuple(retain)
        self.program = tuple((FORWARD, group) for group in range(len(self.retain) + 1))
        self.only, self.bar, self.sinks = only, bar, sinks
        self._which = pick(WHICH, tokens, "tokens")
        if not self.retain:
            raise GuidedError("specificity: retain names no set (give at least one Task)")
        if not 0 <= bar < 1:
            raise GuidedError(f"bar: expected a share from 0 up to below 1, got {bar}")
        if only is not None and not 0 <= only <= len(self.retain):
            raise GuidedError(f"only: there is no set {only} (0 is the task, {len(self.retain)} the last)")

    def watch(self, scene: Scene, step: int) -> None:
        def seen(kind: str, layer: int, a: torch.Tensor) -> None:
            norm = scene.split(a.float(), kind).norm(dim=-1)
            self.add_tokens((kind, layer), norm, self._which(scene, self.sinks))

        scene.at_components(tuple(k for k in self.kinds if k != "neuron"), seen)
        if "neuron" in self.kinds:
            at_firing(scene, lambda i, fires: self.add_tokens(("neuron", i), fires, self._which(scene, self.sinks)))

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        def mean(step: int, kind: str, layer: int) -> torch.Tensor:
            return self.token_mean((kind, layer), step)

        sets = [self.stack(partial(mean, step)) for step in range(len(self.steps))]
        return {kind: self._score(np.stack([one[kind] for one in sets])) for kind in self.kinds}

    def _score(self, p: np.ndarray) -> np.ndarray:
        """``[sets, layers, components] -> [layers, components]``."""
        total = p.sum(0)
        q = p / np.where(total > 0, total, 1)
        entropy = -(q * np.log(np.where(q > 0, q, 1))).sum(0)
        score = np.maximum(np.log(len(p)) - entropy, 0)
        keep = (total > 0) & (p.max(0) >= np.quantile(p, self.bar))
        return score * (keep if self.only is None else keep & (p.argmax(0) == self.only))


def single(retain: Task | Iterable[Task], name: str) -> Task:
    """The one set of a method that compares with one. Raises GuidedError if there are more."""
    if isinstance(retain, Task):
        return retain
    tasks = tuple(retain)
    if len(tasks) != 1:
        raise GuidedError(f"{name}: it compares with one set, got {len(tasks)} (use method='specificity')")
    return tasks[0]
