"""Run a model again from one of its layers on, many variants at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ...anatomy import Form, alone, behind_attention, decoder_of, form_of
from ...system import processes
from ...task.batching import model_inputs
from .scene import Scene


@dataclass(frozen=True, eq=False)
class Bundle:
    """Which tokens of which rows run together, and which of these are read after the last layer ``[columns]``."""

    tokens: slice
    sequences: int
    examples: int
    read: torch.Tensor

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """What belongs to these tokens: ``[rows, tokens, width] -> [sequences, examples, tokens, width]``.

        One value for all tokens, ``[width]``, stays as it is.
        """
        if value.ndim == 1:
            return value
        return value[: self.sequences * self.examples, self.tokens].unflatten(0, (self.sequences, self.examples))


Edit = Callable[[torch.Tensor, Bundle], None]
"""Changes activations ``[sequences per example, copies, examples, tokens, width]`` in place."""

Edits = Mapping[tuple[str, int], Edit]
"""By kind and layer: of what enters the out-projection or the down-projection, or of what the layer adds."""

Flow = dict[Bundle, torch.Tensor]
"""What enters a layer, of each bundle ``[sequences per example, copies, examples, tokens, width]``."""


@dataclass(frozen=True)
class Entry:
    """Copies of the batch that enter at one layer, and what changes in them from there on."""

    layer: int
    copies: int
    edits: Edits


class Suffix:
    """A clean pass over one batch, and as many passes after it as there are questions.

    What enters each layer is kept, so that a change inside a layer costs that layer and those above it only; several
    changes run as copies of the batch. What all examples begin with runs once per copy instead of once per row (its
    keys and values are what the rest needs of it), tokens after the last scored position do not run at all, and in the
    last layer what follows attention runs where an answer is scored.

    Args:
        scene: with the batch shown.
        layers: which layers will be entered.
        prefix: how many tokens all rows begin with.
        cut: leave out the tokens after the last scored position, which nothing before them reads in a causal model.

    Attributes:
        clean: the task's quantity of the unchanged model ``[examples]``.
        tokens: how many tokens one copy runs.
    """

    def __init__(self, scene: Scene, layers: Iterable[int], prefix: int = 0, cut: bool = True) -> None:
        self.scene = scene
        scored = scene.task.scored_columns(scene.batch)
        end = int(scored[-1]) + 1 if cut else scene.mask.shape[1]
        # Nobody reads what the last layer makes of the prefix; one token keeps the shapes.
        self._head = Bundle(slice(0, prefix), 1, 1, scored.new_zeros(1))
        self._rest = Bundle(slice(prefix, end), scene.rows // scene.examples, scene.examples, scored - prefix)
        self.tokens = prefix + scene.rows * (end - prefix)
        self._hidden: dict[int, torch.Tensor] = {}
        self._batches: dict[int, dict[str, torch.Tensor]] = {}
        whole = scene.batch | {name: tensor[:, :end] for name, tensor in model_inputs(scene.batch).items()}
        self._form: Form = alone
        handles = [scene.tap.at_layer(scene.anatomy.layer_module(layer), self._keep(layer)) for layer in set(layers)]
        handles.append(scene.tap.at_module(scene.anatomy.layer_module(0), self._keep_form))
        try:
            self.clean = scene.task.quantity(scene.model, whole)
        finally:
            for handle in handles:
                handle.remove()
        self._cache = self._prefix_cache(1) if prefix else None

    def _keep(self, layer: int) -> Callable[[torch.Tensor, torch.Tensor], None]:
        return lambda before, after: self._hidden.update({layer: before})

    def _keep_form(self, before: torch.Tensor, output: object) -> None:
        self._form = form_of(output)

    def without_layer(self, layer: int, added: torch.Tensor | None = None) -> torch.Tensor:
        """The quantity ``[examples]`` when a layer adds ``added [rows, tokens, width]`` (or ``[width]``) to the
        residual stream, or nothing."""
        hidden = self._hidden[layer]
        if added is not None:
            hidden = hidden + (added if added.ndim == 1 else added[:, : hidden.shape[1]]).to(hidden)
        return self._finish(layer + 1, self._entering(hidden, 1), {})[0]

    def edited(self, entries: Sequence[Entry]) -> torch.Tensor:
        """The quantity ``[copies, examples]`` of all copies, with what some components say edited.

        Copies that enter at different layers (ascending) run together from where the later ones join, so that a few
        components of many layers keep a core as busy as many of one.
        """
        flow: Flow = {}
        for number, entry in enumerate(entries):
            new = self._entering(self._hidden[entry.layer], entry.copies)
            flow = {bundle: torch.cat([flow[bundle], states], 1) if flow else states for bundle, states in new.items()}
            edits = {at: _of_newest(edit, entry.copies) for at, edit in entry.edits.items()}
            if number + 1 < len(entries):
                flow = self._advance(entry.layer, entries[number + 1].layer, flow, edits)
        return self._finish(entries[-1].layer, flow, edits)

    # -- how it runs ------------------------------------------------------------------------------------------------
    def _entering(self, hidden: torch.Tensor, copies: int) -> Flow:
        """Copies of what enters a layer, first of the prefix."""
        bundles = (self._rest,) if self._cache is None else (self._head, self._rest)
        return {bundle: bundle.of(hidden)[:, None].expand(-1, copies, -1, -1, -1) for bundle in bundles}

    def _finish(self, layer: int, flow: Flow, edits: Edits) -> torch.Tensor:
        """The quantity ``[copies, examples]`` of what enters a layer."""
        batch = self._batch(layer, self.scene.anatomy.num_layers, flow, edits)
        with self._changed(self._rest, layer, flow, edits):
            return self.scene.task.quantity(self.scene.model, batch).unflatten(0, (flow[self._rest].shape[1], -1))

    def _advance(self, layer: int, end: int, flow: Flow, edits: Edits) -> Flow:
        """What enters layer ``end`` of what enters ``layer``."""
        tap, anatomy, found = self.scene.tap, self.scene.anatomy, Flow()
        running = iter(flow)

        def keep(before: torch.Tensor, after: torch.Tensor) -> None:
            bundle = next(running)
            found[bundle] = before.unflatten(0, flow[bundle].shape[:3])

        above = [anatomy.layer_module(i) for i in range(end, anatomy.num_layers)]
        handles = [tap.leave_out(above, form=self._form)]
        handles.append(tap.at_layer(anatomy.layer_module(end), keep))
        try:
            batch = self._batch(layer, end, flow, edits)
            with self._changed(self._rest, layer, flow, edits):
                self._decode(**model_inputs(batch), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _batch(self, layer: int, end: int, flow: Flow, edits: Edits) -> dict[str, Any]:
        """The tokens after the prefix, with the keys and values of the prefix in the layers that run."""
        copies = flow[self._rest].shape[1]
        batch: dict[str, Any] = dict(self._copied(copies))
        if self._cache is not None:
            with self._changed(self._head, layer, flow, edits):
                cache = self._prefix_cache(copies)
            rows = torch.arange(copies, device=flow[self._head].device)
            for running in cast(list[DynamicLayer], cache.layers[layer:end]):
                running.batch_select_indices(_copies(rows, self._rest.sequences, self._rest.examples))
            # Layers that do not run are only asked for their length.
            cache.layers = [*self._cache.layers[:layer], *cache.layers[layer:end], *self._cache.layers[end:]]
            batch["past_key_values"] = cache
        return batch

    @contextmanager
    def _changed(self, bundle: Bundle, layer: int, flow: Flow, edits: Edits) -> Iterator[None]:
        """The model from a layer on, on one bundle of tokens, edited."""
        tap, anatomy, start = self.scene.tap, self.scene.anatomy, flow[bundle]

        def edited(a: torch.Tensor, edit: Edit) -> torch.Tensor:
            # OPT hands rows and tokens over as one dimension.
            changed = a.reshape(*start.shape[:-1], -1).clone()
            edit(changed, bundle)
            return changed.reshape(a.shape)

        def place(kind: str, at: int, edit: Edit) -> Any:
            if kind == "layer":
                name = anatomy.layer_module(at)
                return tap.at_layer(name, lambda before, after: before + edited(after - before, edit))
            name = anatomy.out_module(at) if kind == "head" else anatomy.down_module(at)
            return tap.at_input(name, lambda a: edited(a, edit))

        handles = [tap.leave_out([anatomy.layer_module(i) for i in range(layer)], start.flatten(0, 2), self._form)]
        handles += [place(kind, at, edit) for (kind, at), edit in edits.items()]
        handles += [tap.only_at(name, bundle.read) for name in self._token_wise(edits)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _token_wise(self, edits: Edits) -> list[str]:
        """What of the last layer may run at some tokens only: not the MLP whose neurons are edited, at all of them."""
        anatomy, last = self.scene.anatomy, self.scene.anatomy.num_layers - 1
        edited = anatomy.down_module(last).rpartition(".")[0] if ("neuron", last) in edits else ""
        return [name for name in behind_attention(anatomy, last) if name != edited]

    def _prefix_cache(self, copies: int) -> DynamicCache:
        """Keys and values of the shared prefix, of as many copies of it."""
        cache = DynamicCache(config=self.scene.base.config)
        ids = self.scene.batch["input_ids"][:1, self._head.tokens].expand(copies, -1)
        self._decode(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True)
        return cache

    def _decode(self, **inputs: object) -> None:
        """Run the layers, without the output head where that can be."""
        base: Any = self.scene.base
        decoder = decoder_of(base)
        if processes.is_sharded(self.scene.model) or base.base_model is not decoder:
            # Sharded weights come together when the whole model is called; and what stands around a text model may
            # tell it more than the tokens (PaliGemma's counts positions from 1).
            self.scene.model(**inputs, logits_to_keep=1)
        else:
            decoder(**inputs)

    def _copied(self, copies: int) -> dict[str, torch.Tensor]:
        """The batch's tokens after the prefix, each row as many times."""
        if copies not in self._batches:
            bundle, batch = self._rest, self.scene.batch
            cut = {name: tensor[:, bundle.tokens.start :] for name, tensor in batch.items() if tensor.ndim == 2}
            cut |= {name: tensor[:, bundle.tokens] for name, tensor in model_inputs(batch).items()}
            cut["attention_mask"] = batch["attention_mask"][:, : bundle.tokens.stop]
            if "reference" in batch:
                cut["reference"] = batch["reference"]
            order = torch.arange(self.scene.rows, device=batch["input_ids"].device).unflatten(0, (bundle.sequences, -1))
            rows = order[:, None].expand(-1, copies, -1).flatten()
            self._batches = {copies: {k: v[rows[: copies * len(v)]] for k, v in cut.items()}}
        return self._batches[copies]


def _of_newest(edit: Edit, copies: int) -> Edit:
    """The edit, of the copies that joined last."""
    return lambda a, bundle: edit(a[:, -copies:], bundle)


def _copies(rows: torch.Tensor, sequences: int, examples: int) -> torch.Tensor:
    """Which copy each row of a batch of copies belongs to."""
    return rows[None, :, None].expand(sequences, -1, examples).flatten()
