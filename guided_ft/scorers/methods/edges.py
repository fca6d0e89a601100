"""Edge attribution patching: the connections between heads and MLPs that carry a task, and the circuit they form."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ...anatomy import Anatomy, Rows
from ...errors import GuidedError, pick
from ...system.files import Json
from ...task.task import Task
from ..watch.listen import listen
from ..watch.passes import BACKWARD, PAIRS, Pass, Path
from ..watch.recorder import Recorder
from ..watch.scene import Scene, float_weight, refuse_experts
from ..watch.unembed import check_stream, frozen_norm, is_parallel, pull_back, write_scale
from .circuit import Edges


def edges(model: nn.Module, task: Task, *, progress: bool | None = None, **options: Any) -> Edges:
    """The effects of all connections; options of ``EdgePatching`` but ``keep``."""
    anatomy = Anatomy.of(model)
    recorder = EdgePatching(anatomy, ("layer", "head"), keep=0.5, **options)
    listen(model, anatomy, task, {"eap": recorder}, progress=progress)
    return recorder.found


class EdgePatching(Recorder):
    """Score heads and layers by the circuit that the strongest connections form.

    An edge leads from what writes to the residual stream (the embeddings, a head, an MLP) to what reads it (the
    queries of a head, the keys or the values of a group, an MLP, the logits)::

        effect(u -> v) = mean over examples of sum over tokens of (b_u - a_u) . d loss / d(input of v)
                                                (EAP: Syed et al. 2023, arXiv 2310.10348, eq. 4)
        steps > 1: the gradient is averaged along a path of the embeddings (EAP-IG: Hanna et al. 2024, 2403.17806)
        score of a node = sum of |effect| over its outgoing edges in the circuit

    with ``a_u`` what ``u`` writes and ``b_u`` what it writes on the corrupted prompt, or 0. The circuit: the ``keep``
    edges with the largest |effect|, less those on no way from the embeddings to the logits. Nothing of the size
    nodes x width is kept: what heads write is made again where it is needed.

    Args:
        replace: ``corrupted`` (needs pairs) or ``zero``.
        steps: gradients along the path; 1: at the input only.
        keep: how many edges, or as a float which share of them (up to 1.0).

    Cost: one backward pass per step, one or two forward passes, and for each a product of everything written with
    everything read. Data: labelled examples; pairs for ``corrupted``. Layers, heads. Adapters must be merged; models
    with experts are refused.
    """

    found: Edges

    def __init__(
        self,
        anatomy: Anatomy,
        kinds: tuple[str, ...],
        *,
        replace: str = "zero",
        steps: int = 1,
        keep: float = 0.1,
    ) -> None:
        super().__init__(anatomy, kinds)
        pick({"corrupted": 0, "zero": 0}, replace, "replace")
        self.replace, self.keep, self.num_steps = replace, keep, steps
        one: Pass = PAIRS if replace == "corrupted" else BACKWARD
        self.program = ((Path(steps, replace, ends_first=True) if steps != 1 else one, 0),)
        self._written: dict[object, torch.Tensor] = {}
        self._other: dict[object, torch.Tensor] = {}
        self._read: dict[object, torch.Tensor] = {}

    # -- watching ---------------------------------------------------------------------------------------------------
    def watch(self, scene: Scene, step: int) -> None:
        check_stream(scene, "writes", "reads")
        if not self.anatomy.layers_alike:
            raise GuidedError("eap: the layers of this model are not alike, and not all have heads and neurons")
        refuse_experts(self.anatomy, self.anatomy.down_module(0))
        self._parallel, self._scale = is_parallel(scene), write_scale(scene)
        for layer in range(self.anatomy.num_layers):
            self._watch_writers(scene, layer)
            self._watch_readers(scene, layer)

    def _watch_writers(self, scene: Scene, layer: int) -> None:
        a, tap = self.anatomy, scene.tap

        def note(key: object, value: torch.Tensor) -> None:
            value = scene.tokens(value.detach())
            phase = {"clean": self._written, "corrupted": self._other, 0: self._other}.get(scene.phase)
            if phase is not None:
                phase[key] = value
            self._read[key] = value

        tap.at_input(a.out_module(layer), lambda z: note(("z", layer), z))
        # Copies: Falcon adds to what its MLP returns.
        tap.at_output(a.out_module(layer), lambda o: note(("o", layer), o.clone()))
        tap.at_output(a.down_module(layer), lambda o: note(("mlp", layer), o.clone()))

        def at_layer(before: torch.Tensor, after: torch.Tensor) -> None:
            note(("in", layer), before)
            if layer == a.num_layers - 1:
                tap.at_gradient(after, lambda g: self._reach(scene, a.num_layers, 0, g.detach().float()[..., None, :]))

        tap.at_layer(a.layer_module(layer), at_layer)

    def _watch_readers(self, scene: Scene, layer: int) -> None:
        family = self.anatomy.family
        for what, rows in (("attention", (family.query, family.key, family.value)), ("mlp", family.up)):
            waiting: dict[str, torch.Tensor] = {}
            names = dict.fromkeys(r.module for r in rows)

            def watch(
                name: str, what: str = what, rows: Any = rows, names: Any = names, waiting: Any = waiting
            ) -> None:
                def seen(x: torch.Tensor, y: torch.Tensor) -> None:
                    scene.tap.at_gradient(y, lambda g: ready(g))

                def ready(g: torch.Tensor) -> None:
                    waiting[name] = scene.tokens(g.detach()).float()
                    if len(waiting) == len(names):
                        parts = {"attention": self._heads, "mlp": self._neurons}[what](scene, layer, rows, waiting)
                        waiting.clear()
                        self._pulled(scene, layer, what, parts)

                scene.tap.at_module(self.anatomy.module(layer, name), seen)

            for name in names:
                watch(name)

    # -- readers: gradients [rows, tokens, targets, width] ----------------------------------------------------------
    def _heads(self, scene: Scene, layer: int, parts: tuple[Rows, ...], g: dict[str, torch.Tensor]) -> torch.Tensor:
        found = []
        for part in parts:
            index = torch.as_tensor(self.anatomy.head_rows(part))
            weight = self._weight(scene, layer, part.module)
            found.append(torch.einsum("rthd,hdo->rtho", g[part.module][..., index], weight[index]))
        return torch.cat(found, 2)

    def _neurons(self, scene: Scene, layer: int, parts: tuple[Rows, ...], g: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(g[name] @ self._weight(scene, layer, name) for name in g)[..., None, :]  # type: ignore[index]

    def _pulled(self, scene: Scene, layer: int, what: str, g: torch.Tensor) -> None:
        """Through the norm by which attention or MLP reads the stream, to the stream itself."""
        attention = what == "attention"
        norm = self._norm(scene, layer, self.anatomy.family.norms[0 if attention else 1])
        if norm is not None:
            stream = self._read["in", layer]
            if not attention and not self._parallel:
                stream = stream + self._after(scene, layer, 0, self._read["o", layer])
            at = stream.float()[..., None, :].expand_as(g).contiguous()
            g = pull_back(lambda x: norm.forward(x.to(stream.dtype)).float(), at, g)
        wide = Edges.width(self.anatomy)
        self._reach(scene, layer, 0 if attention else wide - 1, g)

    # -- writers ----------------------------------------------------------------------------------------------------
    def _reach(self, scene: Scene, layer: int, offset: int, g: torch.Tensor) -> None:
        """Products of everything that was written before with the gradients of some readers of one layer."""
        a, wide = self.anatomy, Edges.width(self.anatomy)
        start = layer * wide + offset
        inside = layer < a.num_layers and offset == wide - 1 and not self._parallel
        self._note(0, start, self._change(("in", 0))[..., None, :], g)
        for i in range(layer + inside):
            first = 1 + i * (a.num_heads + 1)
            self._note(first, start, self._of_heads(scene, i), g)
            if i < layer:
                post = self._of_mlp(scene, i)
                self._note(first + a.num_heads, start, post[..., None, :], g)

    def _note(self, source: int, target: int, change: torch.Tensor, g: torch.Tensor) -> None:
        if "edges" not in self._sums:
            # One for all: thousands of small ones, made between large intermediates, would leave holes in memory that
            # are too small to be used again.
            size = Edges.num_sources(self.anatomy), Edges.num_targets(self.anatomy)
            self._sums["edges"] = torch.zeros(size, dtype=torch.double, device=g.device)
        block = torch.einsum("rtsw,rtvw->sv", change.float(), g) / self.num_steps
        sources, targets = slice(source, source + len(block)), slice(target, target + block.shape[1])
        self._sums["edges"][sources, targets] += block.to(self._sums["edges"])

    def _of_heads(self, scene: Scene, layer: int) -> torch.Tensor:
        """Change of what each head writes ``[rows, tokens, heads, width]``."""
        norm = self._norm(scene, layer, self.anatomy.family.post_norms[0])
        weight = self._weight(scene, layer, self.anatomy.family.out).unflatten(1, (self.anatomy.num_heads, -1))

        def parts(z: torch.Tensor) -> torch.Tensor:
            return torch.einsum("rthd,ohd->rtho", scene.split(z.float(), "head"), weight)

        def shares(of: dict[object, torch.Tensor]) -> torch.Tensor:
            # Heads are normed together: each gets its share, at the scale that all of them have.
            return frozen_norm(norm, of["o", layer][..., None, :], parts(of["z", layer]))  # type: ignore[arg-type]

        if norm is None:
            return self._scale * parts(self._change(("z", layer)))
        return self._scale * ((shares(self._other) if self._other_counts else 0) - shares(self._written))

    def _of_mlp(self, scene: Scene, layer: int) -> torch.Tensor:
        """Change of what the MLP writes ``[rows, tokens, width]``."""
        now = self._after(scene, layer, 1, self._written["mlp", layer])
        return (self._after(scene, layer, 1, self._other["mlp", layer]) if self._other_counts else 0) - now

    def _after(self, scene: Scene, layer: int, which: int, written: torch.Tensor) -> torch.Tensor:
        norm = self._norm(scene, layer, self.anatomy.family.post_norms[which])
        return self._scale * (written if norm is None else norm.forward(written))

    def _change(self, key: object) -> torch.Tensor:
        now = self._written[key]
        return self._other[key] - now if self._other_counts else -now

    @property
    def _other_counts(self) -> bool:
        return self.replace == "corrupted"

    def _norm(self, scene: Scene, layer: int, name: str) -> nn.Module | None:
        return scene.base.get_submodule(self.anatomy.module(layer, name)) if name else None

    def _weight(self, scene: Scene, layer: int, name: str) -> torch.Tensor:
        """The weight ``[out, in]``, float32."""
        full = self.anatomy.module(layer, name)
        if hasattr(scene.base.get_submodule(full), "get_base_layer"):
            raise GuidedError(f"eap: {full} carries an adapter (merge it first)")
        weight = float_weight(scene.base, full, "eap")
        return weight if self.anatomy.rows_axis == 0 else weight.T

    def done(self, scene: Scene, step: int) -> None:
        self._written.clear()
        self._other.clear()
        self._read.clear()

    # -- the answer -------------------------------------------------------------------------------------------------
    def _edges(self, examples: int) -> Edges:
        """All edges and their effects."""
        scores = self.steps[0]["edges"].cpu().numpy() / examples
        return Edges(self.anatomy, scores, Edges.possible(self.anatomy, self._parallel))

    def result(self, scene: Scene) -> dict[str, np.ndarray]:
        self.found = self._edges(len(scene.task))
        nodes = self.found.nodes(self.keep)
        return {kind: nodes[kind] for kind in self.kinds}

    def meta(self) -> Json:
        return {"edges": self.found.top(50)}
