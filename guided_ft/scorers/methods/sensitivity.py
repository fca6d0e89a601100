"""Sensitivity: how much the output changes when a layer is disturbed. With execution depth, it tells what to freeze."""

from __future__ import annotations

import torch
from torch import nn

from ...anatomy import Anatomy
from ...errors import GuidedError
from ...selection.scoremap import ScoreMap
from ...system.files import Json
from ...system.progress import track
from ...task.task import Task
from ..watch.listen import listen
from ..watch.passes import FORWARD
from ..watch.scene import Scene
from ..watch.tap import Handle, Tap
from ..watch.unembed import Answers, Unembedding
from .lens import ExecutionDepth


def sensitivity(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task,
    *,
    kinds: tuple[str, ...] = ("layer",),
    noise: float = 0.1,
    seed: int = 0,
    progress: bool | None = None,
) -> ScoreMap:
    """Score layers by how much the output changes when what they add is disturbed.

    ::

        h_out <- h_out + noise * ||h_out - h_in|| * (a random direction, drawn for each layer, the same at all tokens)
        score = mean over examples of the mean over answer tokens of KL(undisturbed || disturbed)   (nats)

    Layers that are sensitive carry the task; ``meta["depth"]`` is the layer (from 1) by which the answer has appeared
    (``execution_depth``). "Freeze Deep, Train Shallow" (arXiv 2605.11416) freezes what lies beyond it and is not
    sensitive; its exact formula is not public.

    Args:
        noise: size of the disturbance, as a share of what the layer adds.
        seed: of the directions.

    Cost: one forward pass per layer and batch, and one more. Data: labelled examples. Layers only.
    """
    if not noise > 0:
        raise GuidedError(f"noise: expected a share above 0, got {noise}")
    depth = ExecutionDepth(anatomy, kinds)
    found = listen(model, anatomy, task, {"execution depth": depth}, progress=progress)["execution depth"]
    totals = torch.zeros(anatomy.num_layers, dtype=torch.float64)
    device = next(model.parameters()).device
    with Tap(model) as tap:
        scene = Scene(tap, anatomy, task)
        lens = Unembedding(scene)
        directions = noise * _directions(anatomy.num_layers, anatomy.hidden_size, seed)
        seen: dict[str, torch.Tensor] = {}
        tap.at_input(lens.norm_name, lambda h: seen.update(h=scene.tokens(h.detach())))
        for batch in track(task.batches(device), task.num_batches(), "sensitivity", progress):
            scene.show(batch)
            answers = Answers.of(scene)
            FORWARD.run(scene)
            clean = answers.at(seen["h"])
            # Every text weighs the same, however many answer tokens it has.
            share = 1 / torch.bincount(answers.row)[answers.row].double()
            for layer in range(anatomy.num_layers):
                handle = _disturb(tap, anatomy, layer, directions[layer])
                FORWARD.run(scene)
                handle.remove()
                totals[layer] += float((_kl(lens, clean, answers.at(seen["h"])).double() * share).sum())
    texts = len(task) * len(task.examples[0])
    meta: Json = {"passes": task.num_batches() * (anatomy.num_layers + 2)}
    meta |= {"depth": found.meta["depth"], "never": found.meta["never"]}
    return ScoreMap.of_arrays(anatomy, {"layer": totals.numpy() / texts}, meta)


def _disturb(tap: Tap, anatomy: Anatomy, layer: int, direction: torch.Tensor) -> Handle:
    def hook(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        size = (after - before).float().norm(dim=-1, keepdim=True)
        return after + (size * direction.to(after.device)).to(after.dtype)

    return tap.at_layer(anatomy.layer_module(layer), hook)


def _directions(layers: int, width: int, seed: int) -> torch.Tensor:
    """Unit vectors ``[layers, width]``, the same on every device."""
    drawn = torch.randn(layers, width, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=1, keepdim=True)


def _kl(lens: Unembedding, clean: torch.Tensor, disturbed: torch.Tensor, chunk: int = 256) -> torch.Tensor:
    """KL(clean || disturbed) of the next-token distributions ``[answers]``."""
    found = []
    for a, b in zip(clean.split(chunk), disturbed.split(chunk), strict=True):
        p, q = lens.logits(a).log_softmax(1), lens.logits(b).log_softmax(1)
        found.append((p.exp() * (p - q)).sum(1))
    return torch.cat(found)
