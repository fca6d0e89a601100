"""Which shortcuts a ``Suffix`` may take: those that are seen to change nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ...errors import GuidedError
from ...task.task import Task
from .scene import Scene
from .suffix import Entry, Suffix

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Largest difference of quantities, relative to the largest (and at least 1)."""
_ROUGH = 0.05


class Shortcuts:
    """Makes the Suffix of the batch that is shown.

    On the first batch it runs the unchanged model both ways: whole, and from every layer on. Where the two differ, the
    shared prefix and the cut after the last scored token are given up (a model whose attention looks ahead, a wrapper
    with positions of its own), so that what is computed is always what the whole model would say.

    Args:
        scene: of the task.
        layers: which layers will be entered.

    Attributes:
        passes: forward passes that the check has cost.
    """

    _settled = False

    def __init__(self, scene: Scene, layers: Iterable[int]) -> None:
        self.scene, self.layers = scene, sorted(set(layers))
        # What mixes tokens otherwise than by attention keeps no keys and values of a prefix.
        alike = not scene.anatomy.family.mixed and len(scene.anatomy.layers_of("head")) == scene.anatomy.num_layers
        self.prefix, self.cut = shared_prefix(scene.task) if alike else 0, True
        self.passes = 0

    def suffix(self) -> Suffix:
        """The Suffix of the batch.

        Raises:
            GuidedError: if running the model from a layer on is not running it, with or without shortcuts, or the
                model says nothing finite.
        """
        if self._settled:
            return Suffix(self.scene, self.layers, self.prefix, self.cut)
        self.passes = 2
        truth = self.scene.task.quantity(self.scene.model, self.scene.batch)
        if not truth.isfinite().all():
            name = self.scene.task.name
            raise GuidedError(f"task {name!r}: the model's loss is not finite (check the data and the model's dtype)")
        for prefix, cut in dict.fromkeys(((self.prefix, True), (0, False))):
            suffix = Suffix(self.scene, self.layers, prefix, cut)
            found = torch.cat([suffix.clean[None], suffix.edited([Entry(layer, 1, {}) for layer in self.layers])])
            limit = _TOLERANCE.get(next(self.scene.base.parameters()).dtype, _ROUGH) * max(
                1.0, float(truth.abs().max())
            )
            if float((found - truth).abs().max()) <= limit:
                self.prefix, self.cut, self._settled = prefix, cut, True
                return suffix
        raise GuidedError(
            f"{self.scene.anatomy.model_type}: run from one of its layers on, this model says something else than run "
            f"whole ({found.flatten()[0]:.4g} against {truth.flatten()[0]:.4g}), so exact ablation is refused (try "
            "'attribution')"
        )


def shared_prefix(task: Task) -> int:
    """How many tokens all sequences of a task begin with, corrupted ones too, before the first scored position.

    None for left-padded batches, whose columns do not line up, and for metrics that read all logits.
    """
    if task.padding == "left" or callable(task.metric):
        return 0
    rows = [s.ids for e in (*task.examples, *(task.corrupted or ())) for s in e]
    alike = next((i for i, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1), None)
    return min(len(min(rows, key=len)) if alike is None else alike, task.first_scored)
