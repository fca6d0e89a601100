"""What a removed component says instead: nothing, its mean, or what it says on other data."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...errors import GuidedError, pick
from ...system import processes
from ...task.batching import model_inputs
from .scene import Scene
from .tap import Tap

Values = dict[tuple[str, int], torch.Tensor]
"""By kind and layer, ``[width]`` or ``[rows, tokens, width]`` of the batch that is shown; without an entry: zero."""

Provider = Callable[[int], Values]
"""Gives the values for the batch that is shown, from its number."""


def zero(scene: Scene, kinds: tuple[str, ...], seed: int) -> Provider:
    """Nothing."""
    return lambda number: {}


def mean(scene: Scene, kinds: tuple[str, ...], seed: int) -> Provider:
    """The component's mean over all real tokens of the task."""
    sums: Values = {}
    tokens = torch.zeros((), dtype=torch.double)
    split = processes.size() > 1 and not processes.is_sharded(scene.model)
    for batch in processes.share(scene.task.batches(_device(scene)), split):
        weight = batch["attention_mask"].double()[..., None]
        tokens += weight.sum().cpu()
        for key, a in activations(scene, kinds, batch).items():
            total = (a.double() * weight).sum((0, 1))
            sums[key] = sums[key] + total if key in sums else total
    if split:
        counted = sums | {("tokens", 0): tokens}
        processes.reduce(counted)
        tokens, sums = counted.pop(("tokens", 0)), counted
    means = {key: total / tokens.to(total) for key, total in sums.items()}
    return lambda number: means


def corrupted(scene: Scene, kinds: tuple[str, ...], seed: int) -> Provider:
    """What the component says on the corrupted prompt of the pair, token by token (activation patching)."""
    return lambda number: activations(scene, kinds, scene.corrupted())


def resample(scene: Scene, kinds: tuple[str, ...], seed: int) -> Provider:
    """What the component says at the same position of another example, drawn once (a seeded derangement).

    Where the other example is shorter, its last token speaks for the rest.
    """
    task = scene.task
    if len(task) < 2:
        raise GuidedError(f"task {task.name!r}: resampling needs at least two examples")
    order = torch.randperm(len(task), generator=torch.Generator().manual_seed(seed)).tolist()
    donor = dict(zip(order, order[1:] + order[:1], strict=True))

    def values(number: int) -> Values:
        start = number * task.batch_size
        others = task.part(donor[i] for i in range(start, start + scene.examples))
        batch = next(others.batches(_device(scene)))
        mask = batch["attention_mask"]
        position = (scene.mask.cumsum(1) - 1).clamp(min=0).minimum(mask.sum(1, keepdim=True) - 1)
        column = mask.argmax(1, keepdim=True) + position
        return {
            key: a.gather(1, column[..., None].expand(-1, -1, a.shape[-1]))
            for key, a in activations(scene, kinds, batch).items()
        }

    return values


REPLACEMENTS: dict[str, Callable[[Scene, tuple[str, ...], int], Provider]] = {
    "zero": zero,
    "mean": mean,
    "resample": resample,
    "corrupted": corrupted,
}


def replacement(name: str) -> Callable[[Scene, tuple[str, ...], int], Provider]:
    return pick(REPLACEMENTS, name, "replace")


def activations(scene: Scene, kinds: tuple[str, ...], batch: dict[str, torch.Tensor]) -> Values:
    """What every component of these kinds says on a batch: ``[rows, tokens, width]`` by kind and layer."""
    found: Values = {}

    def seen(kind: str, layer: int, a: torch.Tensor) -> None:
        found[kind, layer] = a

    with Tap(scene.model) as tap, torch.no_grad():
        other = Scene(tap, scene.anatomy, scene.task)
        other.show(batch)
        other.at_components(kinds, seen)
        scene.model(**model_inputs(batch), use_cache=False, logits_to_keep=1)
    return found


def _device(scene: Scene) -> torch.device:
    return next(scene.model.parameters()).device
