"""The ways to run a model over a task. Recorders that name an equal pass share it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from ...errors import GuidedError

if TYPE_CHECKING:
    from .scene import Scene


@dataclass(frozen=True)
class Pass(ABC):
    """How to run one batch. Equal passes over the same data are run once for all who listen.

    Attributes:
        order: of two passes that are waited for, the one with the lower number comes first.
        start_graph: gradients flow from the embeddings, with frozen weights.
        cost: forward (and backward) passes per batch.
    """

    order: ClassVar[int] = 0
    start_graph: ClassVar[bool] = False

    @property
    def cost(self) -> int:
        return 1

    @abstractmethod
    def run(self, scene: Scene) -> None: ...


@dataclass(frozen=True)
class Forward(Pass):
    """Activations only. No loss is computed."""

    def run(self, scene: Scene) -> None:
        with torch.no_grad():
            scene.forward()


@dataclass(frozen=True)
class Backward(Pass):
    """Activations and their gradients; the loss is summed over examples, so that each has its own gradient."""

    order: ClassVar[int] = 1
    start_graph: ClassVar[bool] = True

    def run(self, scene: Scene) -> None:
        scene.loss().sum().backward()


@dataclass(frozen=True)
class Weights(Pass):
    """Gradients of the weights too, which the recorders ask for through ``scene.at_weights``."""

    order: ClassVar[int] = 2

    def run(self, scene: Scene) -> None:
        scene.loss().sum().backward()


@dataclass(frozen=True)
class Pairs(Pass):
    """The corrupted prompt first (``scene.phase == "corrupted"``, no gradients), then the clean one with gradients."""

    order: ClassVar[int] = 3
    start_graph: ClassVar[bool] = True

    @property
    def cost(self) -> int:
        return 2

    def run(self, scene: Scene) -> None:
        scene.phase = "corrupted"
        with torch.no_grad():
            scene.forward(scene.corrupted())
        scene.phase = "clean"
        scene.loss().sum().backward()


@dataclass(frozen=True)
class Path(Pass):
    """From a baseline to the input in ``steps`` equal strides of the embeddings, with gradients at the end of each.

    ``scene.phase`` is 0 at the baseline (no gradients), then 1 to ``steps``.

    Args:
        baseline: ``zero`` embeddings, or those of the ``corrupted`` prompt.
        ends_first: run the end of the path too before the rest (``scene.phase == "clean"``, no gradients), for those
            who must know where it leads.
    """

    order: ClassVar[int] = 4
    start_graph: ClassVar[bool] = True
    steps: int = 5
    baseline: str = "zero"
    ends_first: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise GuidedError(f"steps: expected a number of strides from 1 up, got {self.steps!r}")

    @property
    def cost(self) -> int:
        return self.steps + 1 + self.ends_first

    def run(self, scene: Scene) -> None:
        corrupted = self.baseline == "corrupted"
        embeddings = scene.base.get_input_embeddings()

        def stride(out: torch.Tensor) -> torch.Tensor:
            start = embeddings_of(scene.corrupted()["input_ids"]) if corrupted else torch.zeros_like(out)
            share = 1.0 if scene.phase == "clean" else scene.phase / self.steps
            return start + share * (out - start)

        def embeddings_of(ids: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return embeddings.forward(ids)  # past the hooks

        handle = scene.tap.at_output(scene.name_of(embeddings), stride)
        try:
            with torch.no_grad():
                for scene.phase in (0, "clean") if self.ends_first else (0,):
                    scene.forward()
            for scene.phase in range(1, self.steps + 1):
                scene.loss().sum().backward()
        finally:
            handle.remove()


FORWARD, BACKWARD, WEIGHTS, PAIRS = Forward(), Backward(), Weights(), Pairs()
