"""A vocabulary as the metadata of a GGUF file: of bytes (GPT-2's), or SentencePiece's (Llama 2's and Mistral's)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import GuidedError
from ..system.files import Json

if TYPE_CHECKING:
    from gguf import GGUFWriter, TokenType
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
        GuidedError: for a tokenizer that is neither, or cuts text in a way that has no name here.
    """
    from gguf import TokenType

    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = json.loads(backend.to_str()) if backend is not None else {}
    model = parts.get("model") or {}
    pieces = bool(model.get("byte_fallback"))
    name = _cut_of_pieces if pieces else _cut
    cut = name(parts) if model.get("type") == "BPE" else None
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
    # Pairs, or in older files text.
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
    tokens = [known.get(i, f"[PAD{i}]") for i in range(size)]
    if pieces:
        kinds = [_kind_of_piece(token, kind, tokenizer) for token, kind in zip(tokens, kinds, strict=True)]
        writer.add_token_scores(_scores(tokens, merges))
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if not pieces:
        writer.add_token_merges([" ".join(m) for m in merges])
    _write_special(writer, tokenizer, space_first=pieces)


def _cut_of_pieces(parts: Json) -> str | None:
    """``default``, if text is cut as SentencePiece does it: nowhere, with ``▁`` for a space and one before it all."""
    cutter, normal = parts.get("pre_tokenizer"), parts.get("normalizer")
    if normal is None and cutter is not None:
        schemes = ("always", "first")
        fits = cutter.get("type") == "Metaspace" and not cutter.get("split") and cutter["prepend_scheme"] in schemes
        return "default" if fits else None
    steps = [step.get("type") for step in (normal or {}).get("normalizers", ())]
    return "default" if cutter is None and steps == ["Prepend", "Replace"] else None


def _kind_of_piece(token: str, kind: TokenType, tokenizer: PreTrainedTokenizerBase) -> TokenType:
    from gguf import TokenType

    if token == tokenizer.unk_token:
        return TokenType.UNKNOWN
    return TokenType.BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", token) else kind


def _scores(tokens: list[str], merges: Sequence[tuple[str, ...]]) -> list[float]:
    """Higher is merged earlier, by what comes out: minus the first merge that makes a token.

    SentencePiece numbers its pieces so as it learns them, and llama.cpp joins the two neighbours whose piece has most.
    """
    made: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        made.setdefault("".join(pair), rank)
    # Letters and bytes are made by no merge.
    return [-float(made.get(token, len(merges))) for token in tokens]


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


def _write_special(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, *, space_first: bool) -> None:
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    ids |= {"unk": tokenizer.unk_token_id, "pad": tokenizer.pad_token_id}
    for name, index in ids.items():
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    plain = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(plain[0] == ids["bos"])
    writer.add_add_eos_token(plain[-1] == ids["eos"])
    writer.add_add_space_prefix(space_first)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template:
        writer.add_chat_template(template)
