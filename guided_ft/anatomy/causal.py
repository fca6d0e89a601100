"""Whether a model is one that this package can read: asked before anything is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import GuidedError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def check_causal(model: nn.Module, base: PreTrainedModel) -> None:
    """Raise GuidedError unless ``model`` is a Hugging Face model with a decoder and a language-model head.

    Args:
        base: the model without adapters around it.
    """
    around = next((word for name, word in _AROUND.items() if hasattr(model, name)), None)
    if around:
        raise GuidedError(f"model: it is inside of {type(model).__name__} ({around})")
    name = type(base).__name__
    if not all(hasattr(base, part) for part in ("config", "get_decoder", "get_output_embeddings")):
        raise GuidedError(f"model: {name} is no Hugging Face causal language model (AutoModelForCausalLM loads one)")
    if base.get_output_embeddings() is None:
        raise GuidedError(
            f"model: {name} has no language-model head, and another head would stay as it is (only causal language "
            "models are trained: load one with AutoModelForCausalLM)"
        )


_AROUND = {
    "_orig_mod": "hand over the model itself, and compile it afterwards, or with torch_compile=True of the trainer",
    "module": "hand over the model itself: the trainer spreads it over devices and processes",
}
"""Attributes by which others keep a model inside of theirs."""
