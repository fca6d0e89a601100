"""Who else reads what a training forward pass returns: where anybody may, every position's logits are computed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

from ..anatomy import Anatomy, base_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

_KNOWN = ("transformers", "trl", "peft", "accelerate", "torch", "builtins", "typing", "abc")
"""Their code takes the loss, or what it is made of per labelled token; what it reads besides was looked at."""

_OF_THE_LOSS = re.compile(r"loss|logit|logp|forward|training_step")


def other_reader(trainer: Trainer | None, model: nn.Module) -> str | None:
    """Say what may read the logits of positions without a label; None if only code that needs none of them does.

    Args:
        trainer: whose training it is; None where the training loop is not the Trainer's.
    """
    if trainer is None:
        return "the training loop is one of your own"
    for cls in type(trainer).__mro__:
        changed = [] if _known(cls) else [n for n, v in vars(cls).items() if callable(v) and _OF_THE_LOSS.search(n)]
        if changed:
            return f"{cls.__name__}.{changed[0]} is your own"
    for name, value in vars(trainer).items():
        if callable(value) and not isinstance(value, nn.Module) and _OF_THE_LOSS.search(name) and not _known(value):
            return f"the trainer's {name} is your own"
    base = base_model(model)
    for what, value in ((f"{type(base).__name__}.forward", base.forward), ("the model's loss_function", _loss(base))):
        if not _known(value):
            return f"{what} is not transformers' or TRL's"
    return _hooked(base)


def _loss(base: PreTrainedModel) -> object:
    return getattr(base, "loss_function", nn.functional.cross_entropy)


def _known(thing: object) -> bool:
    thing = getattr(thing, "func", thing)
    return (getattr(thing, "__module__", None) or type(thing).__module__).split(".")[0] in _KNOWN


def _hooked(base: PreTrainedModel) -> str | None:
    """A hook that sees outputs which hold nothing but labelled positions."""
    anatomy = Anatomy.of(base)
    last = base.get_submodule(anatomy.layer_module(anatomy.num_layers - 1))
    watched = {"the model": base, "its decoder": base.get_decoder(), "its head": base.get_output_embeddings()}
    watched |= {f"{type(module).__name__} in the last layer": module for module in last.modules()}
    for name, module in watched.items():
        if module is not None and (module._forward_hooks or module._forward_pre_hooks):
            return f"{name} has a forward hook"
    return None
