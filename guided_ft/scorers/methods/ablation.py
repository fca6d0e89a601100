"""Ablation: replace each component and see what the loss does. Exact: the oracle for the estimates."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from ...anatomy import Anatomy, Component
from ...errors import GuidedError
from ...selection.scoremap import ScoreMap
from ...system import processes
from ...system.progress import track
from ...task.task import Task
from ..stability import stability
from ..watch.replacement import Values, replacement
from ..watch.scene import Scene
from ..watch.shortcuts import Shortcuts
from ..watch.suffix import Bundle, Entry, Suffix
from ..watch.tap import Tap

TOKENS = 2048
"""Tokens that run side by side (copies x rows x tokens): enough to keep a core busy; more of them win nothing."""


def ablation(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task,
    *,
    kinds: tuple[str, ...] = ("layer", "head"),
    replace: str = "zero",
    signed: bool = False,
    seed: int = 0,
    max_passes: int = 20_000,
    progress: bool | None = None,
) -> ScoreMap:
    """Score components by the exact change of the loss when they are replaced.

    ::

        effect(example) = loss with the component's activation replaced - loss
        score = mean over examples of |effect|        signed=True: mean of the effect (nats)

    A head's activation is its part of the out-projection's input, a neuron's is its part of the down-projection's;
    a layer's is what it adds to the residual stream. With ``replace="corrupted"`` this is activation patching on
    pairs (Vig et al. 2020, arXiv 2004.12265; Zhang & Nanda 2023, arXiv 2309.16042).

    Args:
        replace: ``zero``; ``mean``: the component's mean over the task's real tokens, which asks what it says about
            this example rather than what it always says; ``resample``: what it says at the same position of another
            example (seeded); ``corrupted``: what it says on the corrupted prompt of the pair.
        max_passes: forward passes of a batch that it may cost; more are refused before the first one.

    Cost: for each component the layers from its own on, copies of the batch side by side, logits only where labels
    are: about half a forward pass (46,080 neurons of a 135M model take hours: ``localize(..., verify=100)``).

    Raises:
        GuidedError: if it would cost more than ``max_passes``.
    """
    components = [c for kind in kinds for c in anatomy.components(kind)]
    _affordable(anatomy, task, components, max_passes)
    halves, passes = effects(
        model, anatomy, task, components, replace=replace, signed=signed, seed=seed, progress=progress
    )
    sides = [_arrays(anatomy, components, side) for side in halves]
    total = {kind: (sides[0][kind] + sides[1][kind]) / len(task) for kind in kinds}
    meta = {"passes": passes, "replace": replace, "stability": stability(*sides) if len(task) > 1 else {}}
    return ScoreMap.of_arrays(anatomy, total, meta)


def _affordable(anatomy: Anatomy, task: Task, components: Sequence[Component], most: int) -> None:
    layers = sum(anatomy.num_layers - c.layer for c in components)
    passes = round(layers / anatomy.num_layers * task.num_batches())
    if passes > most:
        raise GuidedError(
            f"ablation: {len(components):,} components on {len(task):,} examples are about {passes:,} forward "
            "passes (leave out the kind neuron, or check the best of a cheap method with the option verify=100, or "
            f"allow it with the option max_passes={passes})"
        )


def effects(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task,
    components: Sequence[Component],
    *,
    replace: str = "zero",
    signed: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> tuple[np.ndarray, int]:
    """Sums of the (absolute) effects of components over the examples with even and those with odd number.

    Returns ``[2, components]`` (nats), and the number of passes. Under torchrun the batches are shared out.
    """
    provider = replacement(replace)
    kinds = tuple(dict.fromkeys(c.kind for c in components))
    place = {c: i for i, c in enumerate(components)}
    halves = torch.zeros(2, len(components), dtype=torch.double)
    split = processes.size() > 1 and not processes.is_sharded(model)
    passes = 0
    with Tap(model) as tap, torch.no_grad():
        scene = Scene(tap, anatomy, task)
        provide, shortcuts = provider(scene, kinds, seed), Shortcuts(scene, {c.layer for c in components})
        batches = enumerate(task.batches(next(model.parameters()).device))
        for number, batch in processes.share(batches, split):
            scene.show(batch)
            values = provide(number)
            suffix = shortcuts.suffix()
            clean = task.loss(suffix.clean, suffix.clean)
            half = (number * task.batch_size + torch.arange(scene.examples)) % 2
            groups = _groups(components, TOKENS // suffix.tokens)
            for group in track(groups, len(groups), f"ablation {number + 1}/{task.num_batches()}", progress):
                after = _replaced(suffix, group, values)
                effect = task.loss(after.flatten(), suffix.clean.repeat(len(group))).view_as(after) - clean
                effect = (effect if signed else effect.abs()).double().cpu()
                for side in (0, 1):
                    halves[side, [place[c] for c in group]] += effect[:, half == side].sum(1)
            passes += 1 + len(groups)
        passes += shortcuts.passes
    if split:
        processes.reduce(sums := {"halves": halves})
        halves = sums["halves"].cpu()
    return halves.numpy(), passes


def _groups(components: Iterable[Component], copies: int) -> list[list[Component]]:
    """Components of one kind that run side by side, in the order of their layers; a layer runs alone."""
    found = []
    ordered = sorted(set(components), key=lambda c: (c.kind, c.layer, c.expert or 0, c.index))
    for kind, members in itertools.groupby(ordered, lambda c: c.kind):
        whole, size = list(members), 1 if kind == "layer" else max(1, copies)
        found += [whole[i : i + size] for i in range(0, len(whole), size)]
    return found


def _replaced(suffix: Suffix, group: list[Component], values: Values) -> torch.Tensor:
    """The quantity ``[copies, examples]`` with each component of the group replaced in a copy of its own."""
    kind, layer = group[0].kind, group[0].layer
    if kind == "layer":
        return suffix.without_layer(layer, values.get((kind, layer)))[None]
    by_layer = itertools.groupby(group, lambda c: c.layer)
    return suffix.edited([_entry(suffix.scene.anatomy, list(members), values) for _, members in by_layer])


def _entry(anatomy: Anatomy, members: list[Component], values: Values) -> Entry:
    """The members of one layer, each in a copy of its own."""
    kind, layer = members[0].kind, members[0].layer
    value, width = values.get((kind, layer)), anatomy.head_dim if kind == "head" else 1

    def edit(a: torch.Tensor, bundle: Bundle) -> None:
        for copy, c in enumerate(members):
            first = anatomy.position(c) * width
            columns = slice(first, first + width)
            a[:, copy, ..., columns] = 0 if value is None else bundle.of(value[..., columns]).to(a)

    return Entry(layer, len(members), {(kind, layer): edit})


def _arrays(anatomy: Anatomy, components: Sequence[Component], values: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays by kind ``[layers, components]`` from the values of components; 0 for those that were not asked."""
    kinds = dict.fromkeys(c.kind for c in components)
    found = {kind: np.zeros((anatomy.num_layers, anatomy.size(kind))) for kind in kinds}
    for component, value in zip(components, values, strict=True):
        found[component.kind][component.layer, anatomy.position(component)] = value
    return found
