"""The formats that rows come in: how each is recognised, and how it becomes a row in TRL's words. Imports no torch.

A row has one format: the one whose columns it has. Empty columns (None) count as missing.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..errors import GuidedError, pick
from .given import Row
from .messages import from_sharegpt, messages, said


@dataclass(frozen=True)
class Format:
    """One way to write a row.

    Args:
        keys: the columns that it must have.
        also: columns that it may have.
        read: makes the row one in TRL's words. Raises GuidedError, without the row's number.
        about: where it comes from, for the table of formats.
    """

    keys: tuple[str, ...]
    also: tuple[str, ...]
    read: Callable[[Row], Row]
    about: str

    def __str__(self) -> str:
        return " + ".join(self.keys)


def _completion(row: Row) -> Row:
    return _with_prompt(row, "completion")


def _preference(row: Row) -> Row:
    return _with_prompt(row, "chosen", "rejected")


def _implicit(row: Row) -> Row:
    """As TRL's ``extract_prompt``: what both answers begin with is the prompt."""
    chosen, rejected = _both(row, "chosen"), _both(row, "rejected")
    if type(chosen) is not type(rejected):
        raise GuidedError("chosen and rejected must both be text or both be lists of messages")
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    if shared is None:
        raise GuidedError("chosen and rejected do not differ, or one only goes on after the other (give a prompt)")
    if shared and chosen[shared - 1] == " ":
        shared -= 1
    if not shared:
        raise GuidedError("chosen and rejected do not begin alike, so there is no prompt (give a column prompt)")
    return {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _messages(row: Row) -> Row:
    found = messages(row["messages"], "messages")
    for i, message in enumerate(found):
        if message.get("weight") not in (None, 1):
            raise GuidedError(
                f"messages: message {i} has weight {message['weight']!r}, and all messages are trained on (write the "
                "last answer apart: prompt + completion)"
            )
    return {"messages": found}


def _text(row: Row) -> Row:
    return {"text": said(row["text"], "text")}


def _joined(prompt: str, more: str | None, answer: str, first: bool = False) -> Callable[[Row], Row]:
    """Columns of other names: the answer gets the space that sets it off from its prompt."""

    def read(row: Row) -> Row:
        parts = [said(row[prompt], prompt)]
        if more is not None and row.get(more) is not None and str(row[more]).strip():
            parts.insert(0 if first else 1, said(row[more], more))
        return {"prompt": "\n\n".join(parts), "completion": " " + said(row[answer], answer).lstrip()}

    return read


def _label(row: Row) -> Row:
    label = row["label"]
    if isinstance(label, bool):
        label = "yes" if label else "no"
    label = str(label) if isinstance(label, int) else said(label, "label")
    return {"prompt": f"{said(row['text'], 'text')}\nLabel:", "completion": " " + label.strip()}


def _conversations(row: Row) -> Row:
    found = from_sharegpt(row["conversations"])
    system = row.get("system")
    if system and found[0]["role"] != "system":
        found.insert(0, {"role": "system", "content": said(system, "system")})
    return {"messages": found}


def _ids(row: Row) -> Row:
    return {key: row[key] for key in IDS if row.get(key) is not None}


IDS = (
    *("input_ids", "labels", "attention_mask", "completion_mask", "rejected_ids", "rejected_labels"),
    *("corrupted_ids", "corrupted_rejected_ids", "wrong_labels"),
)
"""What a row of ready token ids may have, as ``Task.save`` and the trainers write it."""

CHAT = ("tools", "chat_template_kwargs")
"""What a row of messages may have for its chat template."""

PAIRED = ("corrupted_prompt", "wrong", *CHAT)
"""What a row with a prompt may have: for patching, and for the template."""

FORMATS = {
    "completion": Format(("prompt", "completion"), PAIRED, _completion, "TRL"),
    "preference": Format(("prompt", "chosen", "rejected"), PAIRED, _preference, "TRL"),
    "implicit": Format(("chosen", "rejected"), CHAT, _implicit, "TRL, the prompt is what both begin with"),
    "messages": Format(("messages",), (*CHAT, "parallel_tool_calls"), _messages, "TRL, OpenAI chat"),
    "text": Format(("text",), (), _text, "TRL, continued pre-training"),
    "ids": Format(("input_ids",), IDS[1:], _ids, "ready tokens"),
    "alpaca": Format(("instruction", "output"), ("input",), _joined("instruction", "input", "output"), "Alpaca"),
    "dolly": Format(("instruction", "response"), ("context",), _joined("instruction", "context", "response"), "Dolly"),
    "sharegpt": Format(("conversations",), ("system", *CHAT), _conversations, "ShareGPT"),
    "question": Format(
        ("question", "answer"), ("context",), _joined("question", "context", "answer", first=True), "GSM8K and others"
    ),
    "input": Format(("input", "output"), (), _joined("input", None, "output"), "input and output"),
    "response": Format(("prompt", "response"), (), _joined("prompt", None, "response"), "prompt and response"),
    "label": Format(("text", "label"), (), _label, "classification"),
}
"""Every format by name (``data.format``)."""

TRL = ("prompt", "completion", "chosen", "rejected", "messages", "text", "label")
"""What a column of one's own can be called instead (``data.columns``)."""

CONTENT = {key for form in FORMATS.values() for key in (*form.keys, *form.also)} | {
    *("system", "system_prompt", "history", "article", "passage", "document", "background", "options", "choices"),
    *("query", "image", "images", "audio", "audios", "video", "videos", "response", "answers", "target"),
}
"""Columns that are not dropped unless one asks for it: a model that does not see them learns another task."""


def recognise(row: Mapping[str, object], name: str = "auto") -> Format:
    """The format of a row. Raises GuidedError if none fits, or more than one.

    Args:
        name: of the format that it must have; ``auto``: the one that fits, and what more is there must not matter.
    """
    there = {key for key, value in row.items() if value is not None}
    if name != "auto":
        form = pick(FORMATS, name, "format")
        missing = [key for key in form.keys if key not in there]
        if missing:
            raise GuidedError(f"format {name} needs {form}, and {_listed(missing)} is missing")
        _refuse_label(form, there)
        return form
    fits = {k: f for k, f in FORMATS.items() if there.issuperset(f.keys)}
    best = {k: f for k, f in fits.items() if not any(_within(f, other) for other in fits.values())}
    if not best:
        raise GuidedError(_nearest(row, there))
    if len(best) > 1:
        both = " and ".join(str(f) for f in best.values())
        raise GuidedError(f"two formats at once, {both} (say which: format {' or '.join(best)}; or remove columns)")
    ((name, form),) = best.items()
    _refuse_label(form, there)
    left = sorted((there & CONTENT) - {*form.keys, *form.also})
    if left:
        raise GuidedError(
            f"{form} would be read without {_listed(left)} (write that into the prompt; or, to leave it out, say "
            f"format {name})"
        )
    return form


def _within(form: Format, other: Format) -> bool:
    """Whether all that ``form`` needs is part of ``other``, which needs more."""
    return {*form.keys} <= {*other.keys, *other.also} and not {*other.keys} <= {*form.keys}


def _refuse_label(form: Format, there: set[str]) -> None:
    if "label" in there and "completion" in form.keys:
        raise GuidedError(
            "prompt + completion + label is unpaired preference (KTO), where a label of false means an unwanted "
            "completion (keep the wanted rows and remove the column, or make pairs: chosen + rejected)"
        )


def _nearest(row: Mapping[str, object], there: set[str]) -> str:
    def likeness(form: Format) -> float:
        near = (
            max((difflib.SequenceMatcher(None, key, k[:60]).ratio() for k in there), default=0) for key in form.keys
        )
        return sum(near) / len(form.keys)

    name = max(FORMATS, key=lambda k: (len(there.intersection(FORMATS[k].keys)), likeness(FORMATS[k])))
    missing = [key for key in FORMATS[name].keys if key not in there]
    return (
        f"no known format has the columns {_listed(sorted(there))} (nearest: {FORMATS[name]}, where "
        # In quotes, as a shell needs them.
        f"{_listed(missing)} is missing; rename columns, or in a recipe write "
        '"data.columns={prompt: yours, completion: yours}")'
    )


def _listed(keys: Iterable[object]) -> str:
    """Column names in a message: few, quoted, on one line."""
    names = [repr(str(key)[:40]) for key in keys]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "nothing"


def _both(row: Row, key: str) -> str | list[Row]:
    """A column that is text or a list of messages."""
    value = row[key]
    return messages(value, key) if isinstance(value, list) else said(value, key)


def _with_prompt(row: Row, *answers: str) -> Row:
    prompt = _both(row, "prompt")
    read = {"prompt": prompt}
    for key in answers:
        if isinstance(row[key], str | list) and not row[key]:
            raise GuidedError(f"the answer is empty ({key})")
        read[key] = _both(row, key)
        if type(read[key]) is not type(prompt):
            raise GuidedError(f"prompt and answer must both be text or both be lists of messages ({key})")
    return read
