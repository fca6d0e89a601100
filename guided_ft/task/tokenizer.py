"""The tokenizer that a task is read with: loaded by the name of its model, or handed over. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import GuidedError
from ..system.places import load_from
from .given import named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    Tokenizing = PreTrainedTokenizerBase | ProcessorMixin | str | None
    """What is taken for a tokenizer: one, a processor that holds one, or the name of a model."""


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer that can pad, by the name of its model: embedded, a folder, or an id of the Hub.

    Raises:
        GuidedError: it cannot be read.
    """
    from transformers import AutoTokenizer

    # Whatever goes wrong, the files are all that it can be due to: the tokenizers library has a class for no error.
    tokenizer = load_from(AutoTokenizer.from_pretrained, name, (Exception,), trust_remote_code=trust_remote_code)
    if not isinstance(tokenizer.model_max_length, int | float):
        told = repr(tokenizer.model_max_length)[:40]
        raise GuidedError(f"model: {name!r}: model_max_length {told} is no number (mend its tokenizer_config.json)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def tokenizer_of(tokenizer: Tokenizing) -> PreTrainedTokenizerBase | None:
    """The tokenizer that is given, inside a processor, or of the model with this name; None stays None.

    Raises:
        GuidedError: for anything else, or a name that cannot be loaded.
    """
    if isinstance(tokenizer, str):
        return load_tokenizer(tokenizer)
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    # A model can be called too, and is easily given in its place.
    if inner is None or (callable(inner) and (hasattr(inner, "eos_token_id") or hasattr(inner, "eos_token"))):
        return inner
    raise GuidedError(f"tokenizer: {named(tokenizer)} is none (give a tokenizer, or the name of its model)")
