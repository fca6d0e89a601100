"""TRL's data formats: each turns a row into one sequence of tokens, or into two. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import GuidedError

IGNORE = -100
"""Label of a token that is not scored (the convention of torch and transformers)."""


@dataclass(frozen=True)
class Tokens:
    """Token ids and labels of one text; ``labels[i]`` is ``ids[i]`` or IGNORE."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]


def read_row(row: Mapping[str, Any], tokenizer: Any) -> tuple[Tokens, ...]:
    """Tokenize a row in the first format whose columns it has. Raises GuidedError for any other row."""
    for keys, read in _FORMATS.items():
        if all(row.get(key) is not None for key in keys):
            return tuple(read(row, tokenizer))
    wanted = "; ".join(" + ".join(keys) for keys in _FORMATS)
    raise GuidedError(f"unknown format with keys {sorted(row)} (write one of: {wanted})")


def read_corrupted(row: Mapping[str, Any], tokenizer: Any) -> tuple[Tokens, ...] | None:
    """Tokenize the same row with its ``corrupted_prompt`` (or ready ``corrupted_ids``); None if it has none."""
    swaps = {"corrupted_prompt": "prompt", "corrupted_ids": "input_ids", "corrupted_rejected_ids": "rejected_ids"}
    found = {name: row[key] for key, name in swaps.items() if row.get(key) is not None}
    return read_row({**row, **found}, tokenizer) if found else None


def read_wrong(row: Mapping[str, Any], tokenizer: Any, right: Tokens) -> tuple[int, ...] | None:
    """Label the first token where the row's ``wrong`` answer leaves the right one; IGNORE elsewhere. None without one.

    Raises GuidedError if the answers do not differ, or not in the answer.
    """
    if row.get("wrong_labels") is not None:
        return _real(row, row["wrong_labels"])
    if row.get("wrong") is None:
        return None
    if row.get("prompt") is None:
        raise GuidedError("a wrong answer needs a prompt (write prompt + completion, or leave 'wrong' out)")
    wrong = _answered(tokenizer, row["prompt"], row["wrong"]).ids
    first = next((i for i, (a, b) in enumerate(zip(right.ids, wrong, strict=False)) if a != b), None)
    if first is None or right.labels[first] == IGNORE:
        raise GuidedError("the wrong answer does not differ from the right one inside the answer")
    return (IGNORE,) * first + (wrong[first],) + (IGNORE,) * (len(right.ids) - first - 1)


def _tokens(tokenizer: Any, text: str | list, *, prompt: bool = False, eos: bool = False) -> list[int]:
    if isinstance(text, str):
        if eos and tokenizer.eos_token and not text.endswith(tokenizer.eos_token):
            text += tokenizer.eos_token
        return list(tokenizer(text)["input_ids"])
    return list(
        tokenizer.apply_chat_template(text, tokenize=True, add_generation_prompt=prompt, return_dict=True)["input_ids"]
    )


def _answered(tokenizer: Any, prompt: str | list, answer: str | list) -> Tokens:
    if type(prompt) is not type(answer):
        raise GuidedError("prompt and answer must both be text or both be lists of messages")
    if not answer:
        raise GuidedError("the answer is empty")
    before = _tokens(tokenizer, prompt, prompt=True)
    ids = _tokens(tokenizer, prompt + answer, eos=True)  # type: ignore[operator]
    # As TRL does: where the tokenizer merges across the border, the merged token counts as the answer's.
    common = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids)))
    return Tokens(tuple(ids), (IGNORE,) * common + tuple(ids[common:]))


def _completion(row: Mapping[str, Any], tokenizer: Any) -> list[Tokens]:
    return [_answered(tokenizer, row["prompt"], row["completion"])]


def _preference(row: Mapping[str, Any], tokenizer: Any) -> list[Tokens]:
    return [_answered(tokenizer, row["prompt"], row[key]) for key in ("chosen", "rejected")]


def _messages(row: Mapping[str, Any], tokenizer: Any) -> list[Tokens]:
    ids = tuple(_tokens(tokenizer, row["messages"]))
    return [Tokens(ids, ids)]


def _text(row: Mapping[str, Any], tokenizer: Any) -> list[Tokens]:
    ids = tuple(_tokens(tokenizer, row["text"], eos=True))
    return [Tokens(ids, ids)]


def _ids(row: Mapping[str, Any], tokenizer: Any) -> list[Tokens]:
    labels = _given(row, "labels", row["input_ids"])
    if row.get("completion_mask") is not None:
        answer = _given(row, "completion_mask", labels)
        labels = [label if mask else IGNORE for label, mask in zip(labels, answer, strict=True)]
    sequences = [Tokens(_real(row, row["input_ids"]), _real(row, labels))]
    if row.get("rejected_ids") is not None:
        labels = _given(row, "rejected_labels", row["rejected_ids"])
        sequences.append(Tokens(tuple(row["rejected_ids"]), tuple(labels)))
    return sequences


def _given(row: Mapping[str, Any], key: str, ids: Any) -> Any:
    """A column with a number for each token, or else ``ids``."""
    values = ids if row.get(key) is None else row[key]
    if len(values) != len(ids):
        raise GuidedError(f"{key} has {len(values)} numbers for {len(ids)} tokens (write one for each)")
    return values


def _real(row: Mapping[str, Any], values: Any) -> tuple[int, ...]:
    """What of a column belongs to real tokens, not to padding."""
    if row.get("attention_mask") is None:
        return tuple(values)
    mask = _given(row, "attention_mask", values)
    return tuple(value for value, real in zip(values, mask, strict=True) if real)


_FORMATS = {
    ("prompt", "chosen", "rejected"): _preference,
    ("prompt", "completion"): _completion,
    ("messages",): _messages,
    ("text",): _text,
    ("input_ids",): _ids,
}
