"""``Recorder``: a scorer that only listens, so that many of them can share one pass over the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...anatomy import Anatomy
from ...errors import GuidedError
from ...system import processes
from ...system.files import Json
from ...task.task import Task
from .passes import BACKWARD, Pass

if TYPE_CHECKING:
    from .scene import Scene


class Recorder(ABC):
    """State, what to watch, and a result.

    ``localize`` makes one recorder per method, plays the passes that they ask for, each only once, and collects the
    results. A recorder keeps sums and never examples, so that its memory does not grow with the data.

    Example::

        class Norm(Recorder):
            program = ((FORWARD, 0),)

            def watch(self, scene, step):
                scene.at_components(self.kinds, lambda kind, layer, a: self.add_tokens(
                    (kind, layer), scene.split(a, kind).norm(dim=-1), scene.mask))

            def result(self, scene):
                return self.stack(lambda kind, layer: self.token_mean((kind, layer)))

    Attributes:
        program: the passes to listen to, in order, each with the number of the data set: 0 is the task, 1 and up are
            ``retain``.
        retain: the data sets that the task is held against, of a method that compares sets.
        steps: for every pass played so far, the sums that were noted, over all batches and processes.
    """

    program: tuple[tuple[Pass, int], ...] = ((BACKWARD, 0),)

    def __init__(self, anatomy: Anatomy, kinds: tuple[str, ...]) -> None:
        self.anatomy = anatomy
        self.kinds = kinds
        self.retain: tuple[Task, ...] = ()
        self.steps: list[dict[object, torch.Tensor]] = []
        self._sums: dict[object, torch.Tensor] = {}
        self._peaks: dict[object, torch.Tensor] = {}

    # -- to be written ----------------------------------------------------------------------------------------------
    @abstractmethod
    def watch(self, scene: Scene, step: int) -> None:
        """Set hooks through the scene; they call ``add`` or ``peak``."""

    def done(self, scene: Scene, step: int) -> None:  # noqa: B027 - a hook that few need
        """Called after each batch."""

    @abstractmethod
    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        """The scores by kind, ``[layers, components]``."""

    def meta(self) -> Json:
        """What else is worth knowing, as JSON data."""
        return {}

    # -- to be used -------------------------------------------------------------------------------------------------
    def add(self, key: object, value: torch.Tensor, dtype: torch.dtype = torch.float64) -> None:
        """Add to a sum."""
        value = value.detach().to(dtype)
        if key in self._sums:
            self._sums[key] += value
        else:
            self._sums[key] = value.clone()

    def add_tokens(self, key: object, values: torch.Tensor, mask: torch.Tensor) -> None:
        """Add to a mean over tokens: ``values [rows, tokens, ...]`` where ``mask [rows, tokens]`` is true."""
        real = values.masked_fill(~mask.reshape(*mask.shape, *[1] * (values.ndim - 2)), 0)
        self.add(key, real.double().sum((0, 1)))
        self.add(("tokens", key), mask.sum())

    def token_mean(self, key: object, step: int = 0) -> torch.Tensor:
        """What ``add_tokens`` has come to. Raises GuidedError if no token was counted."""
        count = self.steps[step]["tokens", key]
        if not count:
            name = type(self).__name__.lower()
            raise GuidedError(f"{name}: no text has a token left (leave out fewer first tokens)")
        return self.steps[step][key] / count

    def peak(self, key: object, value: torch.Tensor) -> None:
        """Keep a maximum."""
        value = value.detach().double()
        self._peaks[key] = torch.maximum(self._peaks[key], value) if key in self._peaks else value

    def stack(self, of: Callable[[str, int], torch.Tensor]) -> dict[str, np.ndarray]:
        """Arrays by kind from ``of(kind, layer) -> [components]``; 0 where a layer has none of the kind."""
        a = self.anatomy

        def row(kind: str, layer: int) -> np.ndarray:
            if not a.has_any(kind, layer):
                return np.zeros(a.size(kind))
            return of(kind, layer).reshape(-1).double().cpu().numpy()

        return {kind: np.stack([row(kind, i) for i in range(a.num_layers)]) for kind in self.kinds}

    def close(self, split: bool) -> None:
        """End a step: add the sums of all processes up and keep them."""
        if split:
            processes.reduce(self._sums)
            processes.reduce(self._peaks, "max")
        self.steps.append(self._sums | self._peaks)
        self._sums, self._peaks = {}, {}
