"""Linear probes: how well a component's activation tells two or more kinds of text apart."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from ...anatomy import Anatomy
from ...errors import GuidedError, pick
from ...system.files import Json
from ...task.task import Task
from ..watch.passes import FORWARD
from ..watch.recorder import Recorder
from ..watch.scene import Scene
from .contrast import WHICH


class Probe(Recorder):
    """Score layers and heads by the held-out accuracy of a linear probe on their activations.

    Classes are the task and the sets ``retain``; of preference pairs, without ``retain``, the chosen and the
    rejected texts. Each text gives one feature vector, its mean activation over ``tokens``. From every other text of
    each class a regularized linear discriminant is fitted in closed form, with ``m_k`` the class means and ``S`` the
    covariance within classes::

        predicted class of x = argmax over k of x.W_k - m_k.W_k / 2,    W_k = (S + ridge * mean variance * I)^-1 m_k
        score = share of the remaining texts whose class is predicted, mean over classes        (1 / classes: chance)

    (ITI: Li et al. 2023, arXiv 2306.03341, section 3.1, by logistic regression.) Only sums are kept: a layer's
    probe takes width^2 numbers however many texts there are.

    Args:
        retain: the other classes: a Task or a list of them.
        tokens: ``last`` of every text, ``all`` but the first, or those of the ``answer``.
        ridge: strength of the penalty.

    Cost: two forward passes over all sets. Data: two or more sets of at least two texts. Layers, heads.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        kinds: tuple[str, ...],
        *,
        retain: Task | Iterable[Task] = (),
        tokens: str = "last",
        ridge: float = 0.1,
        sinks: int = 1,
    ) -> None:
        super().__init__(anatomy, kinds)
        self.retain = (retain,) if isinstance(retain, Task) else tuple(retain)
        groups = range(len(self.retain) + 1)
        self.program = tuple((FORWARD, group) for group in (*groups, *groups))
        self.ridge, self.sinks = ridge, sinks
        self._which = pick(WHICH, tokens, "tokens")
        self._groups = len(groups)
        self._classes = max(2, self._groups)
        self._fitted: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]] = {}
        if ridge <= 0:
            raise GuidedError(f"ridge: expected a number above 0, got {ridge}")

    def watch(self, scene: Scene, step: int) -> None:
        group, testing = step % self._groups, step >= self._groups
        if not self.retain and not scene.task.is_preference:
            raise GuidedError("probe: it tells sets apart (give retain=Task or a list, or a preference task)")
        smallest = min(len(scene.task), *(len(t) for t in self.retain)) if self.retain else len(scene.task)
        if smallest < 2:
            raise GuidedError("probe: a set has fewer than two texts (one to learn from, one to test on)")
        if testing and not self._fitted:
            self._fit()
        note = self._test if testing else self._learn

        def seen(kind: str, layer: int, a: torch.Tensor) -> None:
            mask = self._which(scene, self.sinks)[..., None]
            real = a.double().masked_fill(~mask, 0).sum(1) / mask.sum(1).clamp(min=1)
            note((kind, layer), scene.split(real, kind).transpose(0, 1), *self._labels(scene, group))

        scene.at_components(self.kinds, seen)

    def _labels(self, scene: Scene, group: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Class of each row, and whether it is one to learn from."""
        number = torch.arange(scene.rows, device=scene.mask.device)
        classes = torch.full_like(number, group) if self.retain else number // scene.examples
        return classes, (scene.first + number % scene.examples) % 2 == 0

    def _learn(self, key: tuple[str, int], x: torch.Tensor, classes: torch.Tensor, learn: torch.Tensor) -> None:
        """``x [components, rows, width]``."""
        x, classes = x[:, learn], classes[learn]
        self.add((key, "square"), x.mT @ x)
        self.add((key, "sums"), x.mT @ torch.nn.functional.one_hot(classes, self._classes).to(x))
        self.add((key, "counts"), torch.bincount(classes, minlength=self._classes))

    def _fit(self) -> None:
        noted: dict[object, torch.Tensor] = {}
        for sums in self.steps[: self._groups]:
            for key, value in sums.items():
                noted[key] = noted[key] + value if key in noted else value
        for layer in range(self.anatomy.num_layers):
            for kind in (kind for kind in self.kinds if self.anatomy.has_any(kind, layer)):
                counts, added, square = (noted[(kind, layer), name] for name in ("counts", "sums", "square"))
                means = added / counts  # [components, width, classes]
                within = (square - (means * counts) @ means.mT) / counts.sum()
                size = within.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
                penalty = self.ridge * size[:, None, None] * torch.eye(within.shape[1]).to(within)
                weight = torch.linalg.solve(within + penalty, means)
                self._fitted[kind, layer] = (weight, -(weight * means).sum(1) / 2)

    def _test(self, key: tuple[str, int], x: torch.Tensor, classes: torch.Tensor, learn: torch.Tensor) -> None:
        weight, bias = self._fitted[key]
        x, classes = x[:, ~learn], classes[~learn]
        right = ((x @ weight + bias[:, None]).argmax(-1) == classes).double()
        self.add((key, "right"), right @ torch.nn.functional.one_hot(classes, self._classes).double())
        self.add((key, "tested"), torch.bincount(classes, minlength=self._classes))

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        def of(kind: str, layer: int) -> torch.Tensor:
            right, tested = (
                sum(step[(kind, layer), name].cpu() for step in self.steps[self._groups :])
                for name in ("right", "tested")
            )
            return (right / tested).mean(-1)  # type: ignore[union-attr]

        return self.stack(of)

    def meta(self) -> Json:
        return {"chance": 1 / self._classes}
