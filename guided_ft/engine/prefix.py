"""The frozen prefix: layers below the first trained one are computed without a graph, and once per example.

What such a layer says about a text is the same in every epoch, so what enters the first trained layer is kept, and the
forward pass starts there.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from ..anatomy import Anatomy, Form, alone, base_model, decoder_of, form_of
from ..errors import GuidedError
from .labelled import always, wrapped_forward
from .store import PrefixStore

TOLERANCE = 0.02
"""Largest difference of stored from recomputed states, relative to the largest state. On the CPU it is 0."""


class Prefix:
    """Splits a model's training forward pass below layer ``first_layer``.

    Args:
        model: whose layers below ``first_layer``, and whose embeddings, are frozen and draw no random numbers.
        anatomy: of the model.
        first_layer: the first trained layer.
        store: where states are kept; None computes them each time, still without a graph.

    Attributes:
        hits, misses: rows that were found, and that were computed.
        difference: largest difference between stored and recomputed states, once the first batch was found in full.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, first_layer: int, store: PrefixStore | None = None) -> None:
        self.decoder = decoder_of(model)
        self.layers = cast(nn.ModuleList, base_model(model).get_submodule(anatomy.prefix))
        self.first_layer, self.store = first_layer, store
        self.hits = self.misses = 0
        self.difference: float | None = None
        self._form: Form = alone
        self._signature = inspect.signature(type(self.decoder).forward)

    @contextmanager
    def open(self, active: Callable[[], bool] = always) -> Iterator[Prefix]:
        """Inside, training-mode forward passes are split while ``active()``. Other calls are left alone."""
        with wrapped_forward(self.decoder, self._forward, active):
            yield self

    def _forward(self, forward: Callable[..., object], *args: object, **kwargs: object) -> object:
        call = self._signature.bind(self.decoder, *args, **kwargs).arguments
        call.pop("self", None)
        call |= call.pop("kwargs", {})
        ids, mask = call.get("input_ids"), call.get("attention_mask")
        special = ("inputs_embeds", "position_ids", "past_key_values", "token_type_ids")
        wants = ("output_hidden_states", "output_attentions", "output_router_logits")
        if (
            not self.decoder.training
            or ids is None
            or (mask is not None and mask.ndim != 2)
            or any(call.get(name) is not None for name in special)
            or any(call.get(name) or getattr(self.decoder.config, name, False) for name in wants)
        ):
            return forward(*args, **kwargs)
        states = self._states(forward, call, ids, torch.ones_like(ids) if mask is None else mask)
        if any(getattr(layer, "gradient_checkpointing", False) for layer in self.layers):
            # Reentrant checkpointing trains nothing unless its input wants a gradient.
            states.requires_grad_(torch.is_grad_enabled())
        with self._replaced(lambda i: _Given(self.layers[i], states, self._form) if i < self.first_layer else None):
            return forward(**call)

    def _states(
        self, forward: Callable[..., object], call: dict[str, object], ids: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """What enters the first trained layer, ``[rows, tokens, width]``."""
        if self.store is None:
            return self._compute(forward, call, ids, mask)
        keys = _keys(ids, mask)
        found = [self.store.get(key) for key in keys]
        missing = [i for i, states in enumerate(found) if states is None]
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        if len(missing) == len(keys):
            states = self._compute(forward, call, ids, mask)
        else:
            first = next(states for states in found if states is not None)
            states = torch.empty(*ids.shape, first.shape[-1], dtype=first.dtype, device=ids.device)
            for i, kept in enumerate(found):
                if kept is not None:
                    states[i] = kept
            if missing:
                chosen = _like_the_whole(missing, mask)
                for i, new in zip(chosen, self._compute(forward, call, ids[chosen], mask[chosen]), strict=True):
                    states[i] = new
            elif self.difference is None:
                self._prove(states, self._compute(forward, call, ids, mask))
        for i in missing:
            self.store.put(keys[i], states[i])
        return states

    @torch.no_grad()
    def _compute(
        self, forward: Callable[..., object], call: dict[str, object], ids: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Run only the layers below the first trained one."""
        seen: list[torch.Tensor] = []

        def note(run: Callable[..., object], *args: object, **kwargs: object) -> object:
            # The lowest layer always runs before the first stand-in, which must answer in its form.
            output = run(*args, **kwargs)
            self._form = form_of(output)
            return output

        with (
            wrapped_forward(self.layers[0], note),
            self._replaced(lambda i: _Passing(self.layers[i], seen, self) if i >= self.first_layer else None),
        ):
            forward(**call | {"input_ids": ids, "attention_mask": mask, "use_cache": False})
        return seen[0]

    def _prove(self, stored: torch.Tensor, computed: torch.Tensor) -> None:
        """Compare the first batch that was found in full with the truth."""
        # What a kernel leaves on padding may be no number.
        same = (stored == computed) | (stored.isnan() & computed.isnan())
        self.difference = float((stored - computed).abs().masked_fill(same, 0).max())
        if not self.difference <= TOLERANCE * float(computed.abs().nan_to_num().max()):
            raise GuidedError(
                f"prefix cache: the stored states are off by {self.difference:.3g} (something below layer "
                f"{self.first_layer} changed: remove the folder '_guided/prefix', or train without the cache)"
            )

    @contextmanager
    def _replaced(self, stand_in: Callable[[int], nn.Module | None]) -> Iterator[None]:
        """Put stand-ins into the list of layers for the time of one call."""
        kept = dict(self.layers._modules)
        try:
            for i, name in enumerate(kept):
                module = stand_in(i)
                if module is not None:
                    self.layers._modules[name] = module
            yield
        finally:
            self.layers._modules.update(kept)


class _StandIn(nn.Module):
    """Stands where a layer stood, for whoever asks what kind of layer it is, too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        # Not as a part of this module.
        self.__dict__["layer"] = layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)


class _Given(_StandIn):
    """Stands in for a layer below the first trained one: hands the stored states on."""

    def __init__(self, layer: nn.Module, states: torch.Tensor, form: Form) -> None:
        super().__init__(layer)
        self.states, self.form = states, form

    def forward(self, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> object:
        return self.form(self.states)


class _Passing(_StandIn):
    """Stands in for a layer from the first trained one on: notes what would enter, and does nothing."""

    def __init__(self, layer: nn.Module, seen: list[torch.Tensor], prefix: Prefix) -> None:
        super().__init__(layer)
        self.seen, self.prefix = seen, prefix

    def forward(self, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> object:
        self.seen.append(hidden_states)
        return self.prefix._form(hidden_states)


def _keys(ids: torch.Tensor, mask: torch.Tensor) -> list[str]:
    """Name the states of each row.

    They are those of its tokens and of where they stand, whatever the rest of the batch; but their last bits also
    depend on the path that the attention kernel takes: on the padded length, and on whether there is any padding. All
    of it is part of the name, so that stored states have the very bits that would be computed. Few different lengths
    (``pad_to_multiple_of``) make for many hits.

    Padding is part of a row like any token, and its states are kept too: a first label on the left is predicted from
    there, and so is whatever a loss of one's own reads.
    """
    device = ids.device.type
    autocast = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else ""
    ids, mask = ids.cpu().contiguous(), mask.cpu().bool().contiguous()
    path = f"{ids.shape[1]}:{bool(mask.all())}:{autocast}:{ids.dtype}".encode()
    return [
        hashlib.sha256(path + row.numpy().tobytes() + real.numpy().tobytes()).hexdigest()[:32]
        for row, real in zip(ids, mask, strict=True)
    ]


def _like_the_whole(missing: list[int], mask: torch.Tensor) -> list[int]:
    """The missing rows, with one that has padding if the batch has some: the kernel takes another path without."""
    padded = (~mask.bool().all(1)).nonzero().flatten().tolist()
    return missing if not padded or set(padded) & set(missing) else [*missing, padded[0]]
