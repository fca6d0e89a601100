"""A tiny tokenizer and tiny data sets, so that trainers run without a network."""

from __future__ import annotations

import string
from typing import Any

from families import VOCAB
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

_CHARACTERS = [c for c in string.printable if c not in "\t\n\r\x0b\x0c"][: VOCAB - 4]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable character; ids inside the vocabulary of the tiny models."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", *_CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("<eos>|."), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def sums(count: int = 32) -> list[dict[str, Any]]:
    """Prompt and completion rows of different lengths."""
    return [{"prompt": f"{i}+{3 * i} =", "completion": f" {4 * i}"} for i in range(1, count + 1)]


def pairs(count: int = 32) -> list[dict[str, Any]]:
    """Preference rows: the right sum against a wrong one."""
    return [
        {"prompt": f"{i}+{3 * i} =", "chosen": f" {4 * i}", "rejected": f" {4 * i + 1}"} for i in range(1, count + 1)
    ]
