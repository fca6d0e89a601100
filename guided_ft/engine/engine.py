"""The engine of a training run: opened when training begins, closed when it ends."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast
from weakref import WeakValueDictionary

import torch
from torch import nn

from ..anatomy import Anatomy, base_model, decoder_of, settings_of
from ..errors import GuidedError
from ..system import sole
from ..system.files import digest, parse_size
from .labelled import labelled_only, wrapped_forward
from .prefix import Prefix
from .store import PrefixStore, clear_others

if TYPE_CHECKING:
    from transformers import TrainingArguments

ONE_STEP_BYTES = 64 << 20
"""Enough for the states that two passes over one batch share."""

_OPEN: WeakValueDictionary[int, Engine] = WeakValueDictionary()
"""By the ``id`` of the decoder that an engine works on."""


class CacheSummary(TypedDict, total=False):
    """What a prefix cache did, or the ``note`` that says why there was none.

    ``first``: the layer above it. ``hits``, ``misses``: rows found in it, and computed. ``difference``: the largest
    between a stored state and a computed one.
    """

    cache: bool
    note: str | None
    first: int
    hits: int
    misses: int
    difference: float | None


class Engine:
    """Makes the training steps of a plan cheaper without changing what they compute.

    A training that ends by an error tells nobody: when ``over()`` says so, the next forward pass closes the engine.

    Args:
        model: the model with the plan attached.
        first_layer: the first trained layer.
        args: the trainer's arguments.
        epochs: how often the data is passed over.
        cache: size of the prefix cache (``"2GB"``), ``"auto"`` (2 GiB, where it helps), or None for none.
        folder: where the cache lies.
        frozen: fingerprints of the frozen tensors by name: what the cached states depend on.
        over: whether the training that it serves has ended.
        full_logits: compute logits at every position, for losses that want them.

    Raises:
        GuidedError: if a size was given and the states below ``first_layer`` would not repeat.

    Attributes:
        prefix: the split forward pass, if there is one.
        note: why there is no prefix cache, although one was asked for.
        batches: training batches with and without a label, as far as they were counted.
    """

    def __init__(
        self,
        model: nn.Module,
        first_layer: int,
        args: TrainingArguments,
        epochs: float,
        cache: str | int | None,
        folder: Path,
        frozen: dict[str, str],
        over: Callable[[], bool],
        full_logits: bool = False,
    ) -> None:
        close_left_open(model)
        self.over = over
        self.prefix: Prefix | None = None
        self.note: str | None = None
        self.batches = {True: 0, False: 0}
        self._store: PrefixStore | None = None
        self._held: Path | None = None
        self._stack = ExitStack()
        limit = None if cache is None else parse_size(cache)
        if _needs_the_model_as_it_is(args):
            self.note = "torch.compile, FSDP, DeepSpeed and DataParallel need the model as it is"
            return
        anatomy = Anatomy.of(model)
        unsafe = not_repeatable(model, anatomy, first_layer) or _hooked(model, anatomy, first_layer)
        useless = _useless(args, first_layer, epochs)
        if limit is not None and unsafe and cache != "auto":
            raise GuidedError(f"prefix_cache: {unsafe}")
        if limit is not None and not unsafe and not useless:
            self._store = self._open_store(model, anatomy, first_layer, epochs, limit, folder, frozen)
        elif cache is not None:
            self.note = unsafe or useless
        # Without a cache, the split still keeps gradients from flowing below a checkpointed layer.
        if self._store is not None or (args.gradient_checkpointing and first_layer and not unsafe):
            self.prefix = Prefix(model, anatomy, first_layer, self._store)
            self._stack.enter_context(self.prefix.open(self._active))
        if full_logits:
            # Changes nothing, but a forward pass is what notices that the training is over.
            self._stack.enter_context(wrapped_forward(base_model(model), _as_it_is, self._active))
        else:
            self._stack.enter_context(labelled_only(model, anatomy, self._active, self._count))
        _OPEN[id(decoder_of(model))] = self

    def _active(self) -> bool:
        if self.over():
            self.close()
            return False
        return True

    def _count(self, labelled: bool) -> None:
        self.batches[labelled] += 1

    def _open_store(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        first_layer: int,
        epochs: float,
        limit: int,
        folder: Path,
        frozen: dict[str, str],
    ) -> PrefixStore | None:
        base = base_model(model)
        embeddings = cast(nn.Embedding, base.get_input_embeddings()).weight
        width, dtype = base.config.get_text_config().hidden_size, embeddings.dtype
        if epochs <= 1:
            return PrefixStore(None, width, dtype, min(limit, ONE_STEP_BYTES))
        above = tuple(f"{anatomy.layer_module(i)}." for i in range(first_layer, anatomy.num_layers))
        below = {name: value for name, value in frozen.items() if not name.startswith(above)}
        config, attention = settings_of(model), base.config._attn_implementation
        key = digest(below, first_layer, config, attention, str(dtype), embeddings.device.type, torch.__version__)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        root = folder / f"rank-{rank}"
        holder = sole.hold(root)
        if holder:
            self.note = f"{root} is in use by {holder} (give the trainers an output_dir each)"
            return None
        self._held = root
        clear_others(root, key)
        return PrefixStore(root / key, width, dtype, limit)

    def flush(self) -> None:
        """Make what is cached so far findable for a resumed run."""
        if self._store is not None:
            self._store.flush()

    def on_close(self, act: Callable[[], None]) -> None:
        """Do this when the engine is closed."""
        self._stack.callback(act)

    def close(self) -> None:
        """Give the model back as it was."""
        self._stack.close()
        if self._store is not None:
            self._store.close()
        if self._held is not None:
            sole.let_go(self._held)
            self._held = None

    def summary(self) -> CacheSummary:
        """What the prefix cache did."""
        if self.prefix is None or self._store is None:
            return {"cache": False, "note": self.note}
        p = self.prefix
        return {"cache": True, "first": p.first_layer, "hits": p.hits, "misses": p.misses, "difference": p.difference}


def close_left_open(model: nn.Module) -> None:
    """Close the engine of a training of this model that has ended by an error."""
    engine = _OPEN.get(id(decoder_of(model)))
    if engine is not None and engine.over():
        engine.close()


def _as_it_is(forward: Callable[..., object], *args: object, **kwargs: object) -> object:
    return forward(*args, **kwargs)


def _needs_the_model_as_it_is(args: TrainingArguments) -> bool:
    # `accelerate launch` says it in the environment alone.
    launched = any(os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("FSDP", "DEEPSPEED"))
    # More than one device in one process: DataParallel's replicas would run the wrappers of the first.
    return (
        launched
        or getattr(args, "n_gpu", 0) > 1
        or any(getattr(args, name, None) for name in ("torch_compile", "fsdp", "deepspeed"))
    )


def not_repeatable(model: nn.Module, anatomy: Anatomy, first_layer: int) -> str | None:
    """Say why the states below layer ``first_layer`` may differ between two passes over a text; None if they cannot."""
    if anatomy.family.linear:
        return f"what the layers of {anatomy.model_type} hand on to each other is not known"
    base = base_model(model)
    layers = [base.get_submodule(anatomy.layer_module(i)) for i in range(anatomy.num_layers)]
    decoder = decoder_of(base)
    lower = {m for layer in layers[:first_layer] for m in layer.modules()}
    outside = set(decoder.modules()) - {m for layer in layers for m in layer.modules()}
    for module in lower | outside:
        for name, value in vars(module).items():
            chance = value if isinstance(value, float) else 0.0
            # Jitter is the noise of a router; within it PhiMoE's also draws the expert.
            named = re.search("drop|jitter", name) or (isinstance(module, nn.Dropout) and name == "p")
            dropped = chance > 0 and named
            # NEFTune adds its noise in a hook on the embedding (arXiv 2310.05914).
            if dropped or (name == "neftune_noise_alpha" and value):
                return f"{name}={value} below layer {first_layer} makes its states random (set it to 0)"
    trained = {id(p) for layer in layers[first_layer:] for p in layer.parameters()}
    for name, parameter in decoder.named_parameters():
        if parameter.requires_grad and id(parameter) not in trained:
            mend = f"train layers from {first_layer} on only"
            return f"{name} is trained below layer {first_layer}, so its states change ({mend})"
    return None


def _hooked(model: nn.Module, anatomy: Anatomy, first_layer: int) -> str | None:
    """Say which forward hook would not be called if the layers below ``first_layer`` were not run."""
    for i in range(first_layer):
        for name, module in base_model(model).get_submodule(anatomy.layer_module(i)).named_modules():
            if module._forward_hooks or module._forward_pre_hooks:
                return f"layer {i}{name and '.'}{name} has a forward hook, which stored states do not call (remove it)"
    return None


def _useless(args: TrainingArguments, first_layer: int, epochs: float) -> str | None:
    if not first_layer:
        return "the plan trains layer 0, so there is nothing below it to keep"
    if getattr(args, "packing", False) or getattr(args, "padding_free", False):
        return "packing puts other texts together in every epoch, so nothing repeats"
    # DPO asks the policy and the reference the same batch.
    twice = getattr(args, "precompute_ref_log_probs", None) is False
    if epochs <= 1 and not twice:
        return "the data is passed over once, so nothing repeats"
    return None
