"""A byte-level vocabulary as the metadata of a GGUF file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..errors import GuidedError
from ..system.files import Json

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_LETTERS + r"\p{N}{1,3}" + _REST: "llama-bpe", _LETTERS + r"\p{N}" + _REST: "qwen2"}
"""How text is cut before it is merged, and what llama.cpp calls that."""

_IGNORES_MERGES = {"llama-bpe"}
"""Where llama.cpp takes a whole word that is in the vocabulary before it looks at the merges."""


def write_vocabulary(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
    """Write tokens, merges, special tokens and the chat template.

    Args:
        size: rows of the model's embeddings; rows without a token get a name that stands in no text.

    Raises:
        GuidedError: for a tokenizer that is not byte-level BPE, or cuts text in a way that has no name here.
    """
    from gguf import TokenType

    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = json.loads(backend.to_str()) if backend is not None else {}
    model = parts.get("model") or {}
    cut = _cut(parts) if model.get("type") == "BPE" and not model.get("byte_fallback") else None
    if cut is None or bool(model.get("ignore_merges")) != (cut in _IGNORES_MERGES):
        raise GuidedError(
            "gguf: this tokenizer is not of a kind that is written here (write the merged checkpoint, and give it to "
            "llama.cpp's convert_hf_to_gguf.py)"
        )
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    if max(known) >= size:
        raise GuidedError(
            f"gguf: the tokenizer has {max(known) + 1} tokens, but the model {size} (use its own tokenizer)"
        )
    added = tokenizer.added_tokens_decoder
    kinds = [
        (TokenType.CONTROL if added[i].special else TokenType.USER_DEFINED)
        if i in added
        else (TokenType.NORMAL if i in known else TokenType.UNUSED)
        for i in range(size)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list([known.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types(kinds)
    # Pairs, or in older files text.
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    _write_special(writer, tokenizer)


def _cut(parts: Json) -> str | None:
    """llama.cpp's name of how a ``tokenizer.json`` cuts text; None: it has none here."""
    normal, cutter = parts.get("normalizer"), parts.get("pre_tokenizer") or {}
    if normal is not None and normal.get("type") != "NFC":
        return None
    steps = cutter.get("pretokenizers", [cutter])
    kinds = [step.get("type") for step in steps]
    last = steps[-1]
    if kinds[-1] != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"] and last.get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and last.get("use_regex", True):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and steps[0].get("behavior") == "Isolated" and not last.get("use_regex", True):
        return _SPLITS.get(steps[0].get("pattern", {}).get("Regex"))
    return None


def _write_special(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    ids |= {"unk": tokenizer.unk_token_id, "pad": tokenizer.pad_token_id}
    for name, index in ids.items():
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    plain = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(plain[0] == ids["bos"])
    writer.add_add_eos_token(plain[-1] == ids["eos"])
    writer.add_add_space_prefix(False)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template:
        writer.add_chat_template(template)
