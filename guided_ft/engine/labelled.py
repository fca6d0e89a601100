"""Compute only what is scored: in training, logits, and in the last layer all that follows attention, are wanted just
where a label is.

The loss and its gradients are those of the whole batch; the positions that nothing reads are left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..anatomy import Anatomy, base_model, behind_attention, cut_alike, decoder_of
from ..task.tokens import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutput
    from transformers.utils import ModelOutput


def always() -> bool:
    """Whether a wrapped forward is still wanted: yes, until its ``with`` block ends."""
    return True


@contextmanager
def labelled_only(
    model: nn.Module,
    anatomy: Anatomy | None = None,
    active: Callable[[], bool] = always,
    seen: Callable[[bool], None] = lambda labelled: None,
) -> Iterator[None]:
    """Inside, a training-mode forward with ``labels [rows, tokens]`` computes only what the labels ask for.

    The output then holds ``logits [1, scored, vocabulary]`` in the order of the labels; what TRL's fused head returns
    per token keeps its shape ``[rows, tokens - 1]``. Calls without labels, calls that ask for hidden states, and
    models in eval mode are left alone.

    Args:
        anatomy: of the model; None leaves the last layer as it is.
        active: asked at each call; while it is false the model is left alone.
        seen: told at each call with labels whether any of them counts.
    """
    base = base_model(model)
    scored: list[torch.Tensor] = []

    def score(forward: Callable[..., ModelOutput], *args: object, **kwargs: object) -> ModelOutput:
        labels = kwargs.get("labels")
        if not isinstance(labels, torch.Tensor) or labels.ndim != 2 or not base.training or _special(base, kwargs):
            return forward(*args, **kwargs)
        mask = labels[:, 1:] != IGNORE
        labelled = bool(mask.any())
        seen(labelled)
        if not labelled:
            return forward(*args, **kwargs)
        chosen = labels[:, 1:][mask][None]
        scored.append(mask)
        try:
            out = forward(*args, **kwargs | {"labels": chosen, "shift_labels": chosen})
        finally:
            scored.pop()
        return _spread(out, mask)

    def decode(forward: Callable[..., BaseModelOutput], *args: object, **kwargs: object) -> BaseModelOutput:
        out = forward(*args, **kwargs)
        if scored and out.last_hidden_state is not None:
            out.last_hidden_state = out.last_hidden_state[:, :-1][scored[-1]][None]
        return out

    def compute(forward: Callable[..., torch.Tensor], x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        mask = nn.functional.pad(scored[-1], (0, 1)) if scored else None
        if mask is None or x.shape[:2] != mask.shape:
            return forward(x, *args, **kwargs)
        y = forward(x[mask][None], *cut_alike(x, args, lambda a: a[mask][None]), **kwargs)[0]
        return y.new_zeros(*mask.shape, y.shape[-1]).index_put((mask,), y)

    with ExitStack() as stack:
        stack.enter_context(wrapped_forward(decoder_of(base), decode))
        stack.enter_context(wrapped_forward(base, score, active))
        for module in _behind_attention(base, anatomy) if anatomy else ():
            stack.enter_context(wrapped_forward(module, compute))
        yield


def _special(base: PreTrainedModel, kwargs: dict[str, object]) -> bool:
    """Whether a call asks for more than logits and loss, or for them in another form."""
    configs = (base.config, base.config.get_text_config())
    # PEFT hands on what was not asked for as None.
    asked = {name: value for name, value in kwargs.items() if value is not None}
    states = asked.get("output_hidden_states", any(getattr(c, "output_hidden_states", False) for c in configs))
    named = asked.get("return_dict", all(getattr(c, "return_dict", True) for c in configs))
    return "shift_labels" in asked or bool(states) or not named


def _behind_attention(base: nn.Module, anatomy: Anatomy) -> list[nn.Module]:
    """The modules of the last layer that work on each token by itself."""
    last = anatomy.num_layers - 1
    layer = base.get_submodule(anatomy.layer_module(last))
    if getattr(layer, "gradient_checkpointing", False):
        # Its second forward, during backward, would no longer know the labels.
        return []
    return [base.get_submodule(name) for name in behind_attention(anatomy, last)]


def _spread(out: ModelOutput, mask: torch.Tensor) -> ModelOutput:
    """Put what was computed per scored token, ``[1, scored]``, back to its place in ``[rows, tokens - 1]``."""
    for name, value in list(out.items()):
        if isinstance(value, torch.Tensor) and value.shape == (1, int(mask.sum())):
            out[name] = value.new_zeros(mask.shape).masked_scatter(mask, value)
    return out


@contextmanager
def wrapped_forward(
    module: nn.Module, wrapper: Callable[..., object], active: Callable[[], bool] = always
) -> Iterator[None]:
    """Inside, ``module(*args)`` calls ``wrapper(forward, *args)``, and plain ``forward`` while ``active()`` is false.

    Ends with the module exactly as it was.
    """

    def call(forward: Callable[..., object], *args: object, **kwargs: object) -> object:
        return wrapper(forward, *args, **kwargs) if active() else forward(*args, **kwargs)

    own = module.__dict__.get("forward")
    forward = module.forward
    # generate() and PEFT read the signature of forward.
    module.forward = functools.wraps(forward)(functools.partial(call, forward))
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
