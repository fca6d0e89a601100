"""Proofs about the residual stream: who writes to it, how it is read, and what the logits are made of.

Only scorers that take the stream apart need them (edges, direct effects on logits, the logit lens).
"""

from __future__ import annotations

import torch
from torch import nn

from ..anatomy import hidden_of
from ..errors import GuidedError
from ..scorers.watch.scene import Scene
from ..scorers.watch.tap import Tap
from ..scorers.watch.unembed import Unembedding, check_reading, frozen_norm, is_parallel, write_scale
from .bench import Bench, Unproved, alike

Seen = dict[tuple[str, int], torch.Tensor]


def writes(bench: Bench) -> str:
    """What leaves a layer less what entered it is what out- and down-projection say, through the norms named."""
    a, seen, scene = bench.anatomy, *_seen(bench)
    scale = write_scale(scene)
    for layer in _layers(bench):
        added = seen["out", layer] - seen["in", layer]
        parts = [_normed(bench, layer, i, seen[kind, layer], a.family.post_norms) for i, kind in enumerate("oy")]
        alike(scale * (parts[0] + parts[1]), added, f"layer {layer}: what heads and MLP write", 1e-4)
        for i, kind in enumerate("oy"):
            if a.family.post_norms[i]:
                _linear(bench.base.get_submodule(a.module(layer, a.family.post_norms[i])), seen[kind, layer])
    return f"{len(_layers(bench))} layers"


def reads(bench: Bench) -> str:
    """What enters the first projections of attention and MLP is the stream through the norms named."""
    a, seen, scene = bench.anatomy, *_seen(bench)
    if a.family.latent:
        raise Unproved("heads read the stream through a vector that they share")
    for layer in _layers(bench):
        before = seen["in", layer]
        written = write_scale(scene) * _normed(bench, layer, 0, seen["o", layer], a.family.post_norms)
        middle = before if is_parallel(scene) else before + written
        for i, (kind, stream) in enumerate((("q", before), ("u", middle))):
            given = seen[kind, layer].reshape(stream.shape)
            alike(given, _normed(bench, layer, i, stream, a.family.norms), f"layer {layer}: what {'qu'[i]} reads", 1e-4)
    return f"{len(_layers(bench))} layers"


def logits(bench: Bench) -> str:
    """The lens at the last layer is the model's own answer."""
    a, seen, scene = bench.anatomy, *_seen(bench)
    lens, last = Unembedding(scene), seen["out", a.num_layers - 1]
    far = alike(lens.logits(last), seen["logits", 0], "what the lens says of the last hidden states")
    _linear(lens.norm, last)
    return f"off by {far:.1e} of the largest"


def _layers(bench: Bench) -> list[int]:
    """The layers with heads and neurons, to which nothing else should be added."""
    found = [i for i in bench.anatomy.layers_of("head") if bench.anatomy.has_any("neuron", i)]
    if not found:
        raise Unproved("no layer has both heads and neurons")
    return found


def _normed(bench: Bench, layer: int, which: int, x: torch.Tensor, norms: tuple[str, str]) -> torch.Tensor:
    name = norms[which]
    return bench.base.get_submodule(bench.anatomy.module(layer, name)).forward(x) if name else x


def _linear(norm: nn.Module, at: torch.Tensor) -> None:
    """With its scale held, a norm is linear: what it makes of a vector is what is pulled back through it."""
    up = torch.randn(at.shape, generator=torch.Generator().manual_seed(0))
    made = norm.forward(at) - norm.forward(torch.zeros_like(at))
    back = frozen_norm(norm, at, up)
    alike((back * at).sum(-1), (up * made).sum(-1), "what is pulled back through a norm", 1e-4)


def _seen(bench: Bench) -> tuple[Seen, Scene]:
    """What passes the places of each layer on a batch, ``[rows, tokens, width]``."""
    a, seen = bench.anatomy, Seen()
    batch = next(bench.task.batches())
    with Tap(bench.model) as tap, torch.no_grad():
        scene = Scene(tap, a, bench.task)
        scene.show(batch)
        try:
            check_reading(scene)
        except GuidedError as error:
            raise Unproved(str(error)) from None

        def keep(key: tuple[str, int], x: torch.Tensor) -> None:
            # A copy: some add to what a module has returned.
            seen[key] = scene.tokens(x.detach().clone())

        for layer in range(a.num_layers):
            tap.at_layer(
                a.layer_module(layer),
                lambda x, y, layer=layer: (keep(("in", layer), x), keep(("out", layer), y))[0],  # type: ignore
            )
            if not (a.has_any("head", layer) and a.has_any("neuron", layer)):
                continue
            down, query, up = (
                a.down_module(layer),
                *(a.module(layer, r.module) for r in (a.family.query, a.family.up[0])),
            )
            if a.num_experts:
                down, up = down.rpartition(".")[0].rpartition(".")[0], a.experts_module(layer)
            tap.at_output(a.out_module(layer), lambda y, layer=layer: keep(("o", layer), y))  # type: ignore[misc]
            tap.at_module(down, lambda x, y, layer=layer: keep(("y", layer), hidden_of(y)))  # type: ignore[misc]
            for kind, name in (("q", query), ("u", up)):
                tap.at_module(name, lambda x, y, key=(kind, layer): keep(key, x))  # type: ignore[misc]
        out = bench.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        keep(("logits", 0), out.logits.float())
    return seen, scene
