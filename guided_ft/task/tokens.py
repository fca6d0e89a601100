"""Rows in TRL's formats as token ids and labels, the same ones that TRL's trainers make. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import GuidedError
from .given import Row
from .reader import answered, last_answer_apart

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100
"""Label of a token that is not scored (the convention of torch and transformers)."""


@dataclass(frozen=True)
class Tokens:
    """Token ids and labels of one text; ``labels[i]`` is ``ids[i]`` or IGNORE."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]


def read_row(row: Row, tokenizer: PreTrainedTokenizerBase | None) -> tuple[Tokens, ...]:
    """Tokenize a row that ``formats.Reader`` has read: one sequence, or the chosen and the rejected one."""
    if "input_ids" in row:
        return tuple(_ids(row))
    if "messages" in row or "text" in row:
        ids = tuple(_encode(tokenizer, row["messages"] if "messages" in row else row["text"], row, eos=True))
        return (Tokens(ids, ids),)
    return _answered(tokenizer, row, [row[key] for key in ("completion", "chosen", "rejected") if key in row])


def read_corrupted(row: Row, tokenizer: PreTrainedTokenizerBase | None) -> tuple[Tokens, ...] | None:
    """Tokenize the same row with its ``corrupted_prompt`` (or ready ``corrupted_ids``); None if it has none."""
    swaps = {"corrupted_prompt": "prompt", "corrupted_ids": "input_ids", "corrupted_rejected_ids": "rejected_ids"}
    found = {name: row[key] for key, name in swaps.items() if row.get(key) is not None}
    return read_row({**row, **found}, tokenizer) if found else None


def read_wrong(row: Row, tokenizer: PreTrainedTokenizerBase | None, right: Tokens) -> tuple[int, ...] | None:
    """Label the first token where the row's ``wrong`` answer leaves the right one; IGNORE elsewhere. None without one.

    Raises GuidedError if the answers do not differ, or not in the answer.
    """
    if row.get("wrong_labels") is not None:
        return _real(row, row["wrong_labels"])
    if row.get("wrong") is None:
        return None
    if row.get("prompt") is None:
        raise GuidedError("a wrong answer needs a prompt (write prompt + completion, or leave 'wrong' out)")
    wrong = _answered(tokenizer, row, [row["wrong"]])[0].ids
    first = next((i for i, (a, b) in enumerate(zip(right.ids, wrong, strict=False)) if a != b), None)
    if first is None or right.labels[first] == IGNORE:
        raise GuidedError("the wrong answer does not differ from the right one inside the answer")
    return (IGNORE,) * first + (wrong[first],) + (IGNORE,) * (len(right.ids) - first - 1)


def prompt_ids(prompt: Any, tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    """Token ids of a prompt that waits for its answer: text, messages, or a row with ``prompt`` and perhaps ``tools``.

    They are what the trainers put before the completion, special tokens included, but for an end of the text.
    """
    row = dict(prompt) if isinstance(prompt, Mapping) else {"prompt": prompt}
    return _encode(tokenizer, row["prompt"], row, prompt=True)


def asked_ids(prompt: Any, tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    """Token ids that a model is asked with: those of ``prompt_ids``; of messages that have their right answer, what is
    trained before it, which a chat template may write otherwise than a prompt that waits for its answer."""
    apart = _rendered(prompt, tokenizer)
    return prompt_ids(prompt, tokenizer) if apart is None else apart[0]


def right_answer(row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a row's right answer; of messages with what the chat template writes around it, such as the empty
    thoughts of a reasoning model, but for special tokens: a trained model answers so."""
    apart = _rendered(row, tokenizer)
    return answered(row) if apart is None else str(tokenizer.decode(apart[1], skip_special_tokens=True)).strip()


def answer_tokens(row: Row, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens a row's right answer has, without its end."""
    apart = _rendered(row, tokenizer)
    if apart is None:
        return len(tokenizer(answered(row), add_special_tokens=False)["input_ids"])
    said = list(apart[1])
    while said and not str(tokenizer.decode(said[-1:], skip_special_tokens=True)).strip():
        said.pop()
    return len(said)


def _rendered(row: Any, tokenizer: PreTrainedTokenizerBase | None) -> tuple[list[int], list[int]] | None:
    """Of messages, the token ids before their last answer and those of it, as they are trained; None for what is text,
    or has no answer."""
    row = last_answer_apart(dict(row)) if isinstance(row, Mapping) else {}
    if not isinstance(row.get("completion", row.get("chosen")), list):
        return None
    right = read_row(row, tokenizer)[0]
    first = right.labels.count(IGNORE)
    return list(right.ids[:first]), list(right.ids[first:])


def _encode(
    tokenizer: PreTrainedTokenizerBase | None,
    text: str | list,
    row: Row,
    *,
    prompt: bool = False,
    eos: bool = False,
) -> list[int]:
    """Token ids of a text or of messages, with the row's tools and template arguments, as TRL renders them."""
    if tokenizer is None:
        raise GuidedError("text needs a tokenizer (give one, or the name of its model)")
    try:
        if isinstance(text, str):
            if eos and tokenizer.eos_token and not text.endswith(tokenizer.eos_token):
                text += str(tokenizer.eos_token)
            ids = [int(token) for token in tokenizer(text)["input_ids"]]
            # Some tokenizers end every text: a prompt goes on.
            closed = prompt and ids[-1:] == [tokenizer.eos_token_id] and not text.endswith(str(tokenizer.eos_token))
            return ids[:-1] if closed else ids
        tools = row.get("tools") or None
        more = {
            "tools": json.loads(tools) if isinstance(tools, str) else tools,
            **(row.get("chat_template_kwargs") or {}),
        }
        options = {"tokenize": True, "add_generation_prompt": prompt, "return_dict": True, **more}
        found = tokenizer.apply_chat_template(text, **options)
        assert isinstance(found, Mapping)
        return list(found["input_ids"])
    except Exception as error:  # a template is a program, and tokenizers raise many kinds
        if getattr(tokenizer, "chat_template", None) is None and not isinstance(text, str):
            raise GuidedError("the tokenizer has no chat template for messages (write prompts as text)") from None
        what = "the tokenizer" if isinstance(text, str) else "the chat template"
        told = " ".join(str(error).split())[:160]
        raise GuidedError(f"{what} cannot take it ({type(error).__name__}: {told})") from None


def _answered(tokenizer: PreTrainedTokenizerBase | None, row: Row, answers: list[object]) -> tuple[Tokens, ...]:
    """The prompt with each of its answers; scored is what comes after the prompt."""
    prompt = row["prompt"]
    before = _encode(tokenizer, prompt, row, prompt=True)
    found = [_encode(tokenizer, prompt + answer, row, eos=True) for answer in answers]
    # As TRL does: where the tokenizer merges across the border, the merged token counts as the answer's; and the
    # answers of a pair begin at the same place.
    common = min(_common(before, ids) for ids in found)
    return tuple(Tokens(tuple(ids), (IGNORE,) * common + tuple(ids[common:])) for ids in found)


def _common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _ids(row: Row) -> list[Tokens]:
    if not hasattr(row["input_ids"], "__len__"):
        raise GuidedError(f"input_ids: expected a list of token ids, got {str(row['input_ids'])[:40]}")
    labels = _given(row, "labels", row["input_ids"])
    if row.get("completion_mask") is not None:
        answer = _given(row, "completion_mask", labels)
        labels = [label if mask else IGNORE for label, mask in zip(labels, answer, strict=True)]
    sequences = [Tokens(_real(row, row["input_ids"]), _real(row, labels))]
    if row.get("rejected_ids") is not None:
        labels = _given(row, "rejected_labels", row["rejected_ids"])
        sequences.append(Tokens(tuple(row["rejected_ids"]), tuple(labels)))
    return sequences


def _given(row: Row, key: str, ids: Any) -> Any:
    """A column with a number for each token, or else ``ids``."""
    values = ids if row.get(key) is None else row[key]
    if len(values) != len(ids):
        raise GuidedError(f"{key} has {len(values)} numbers for {len(ids)} tokens (write one for each)")
    return values


def _real(row: Row, values: Any) -> tuple[int, ...]:
    """What of a column belongs to real tokens, not to padding."""
    if row.get("attention_mask") is None:
        return tuple(values)
    mask = _given(row, "attention_mask", values)
    return tuple(value for value, real in zip(values, mask, strict=True) if real)
