"""Text and lists of messages, as they must be to be rendered. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import GuidedError

Message = dict[str, Any]

_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
"""Who speaks in ShareGPT's files, and the role that chat templates know."""


def said(value: object, what: str) -> str:
    """A text that is one. Raises GuidedError for what is none, is empty, or is no text that a tokenizer takes."""
    if not isinstance(value, str):
        raise GuidedError(f"{what}: expected text, got {_kind(value)} (put it in quotes, or write it as text)")
    if not value:
        raise GuidedError(f"{what}: it is empty (write some, or remove the row)")
    return _whole(value, what)


def messages(value: object, what: str) -> list[Message]:
    """Messages with a role and text each. Parts of text are joined, other parts refused."""
    if not isinstance(value, list | tuple):
        raise GuidedError(f"{what}: expected a list of messages, got {_kind(value)} (write role and content of each)")
    if not value:
        raise GuidedError(f"{what}: no message in it (write some, or remove the row)")
    return [_message(message, f"{what}: message {i}") for i, message in enumerate(value)]


def from_sharegpt(value: object) -> list[Message]:
    """ShareGPT's turns (``from``, ``value``), or ready messages, as messages."""
    if not isinstance(value, list | tuple):
        raise GuidedError(f"conversations: expected a list of turns, got {_kind(value)} (write from and value of each)")
    found = []
    for i, turn in enumerate(value):
        if isinstance(turn, Mapping) and turn.get("from") is not None:
            role = _SPEAKERS.get(str(turn["from"]))
            if role is None:
                raise GuidedError(
                    f"conversations: turn {i} is from {str(turn['from'])[:40]!r} (write human, gpt, system or tool)"
                )
            turn = {"role": role, "content": turn.get("value")}
        found.append(turn)
    return messages(found, "conversations")


def _message(message: object, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise GuidedError(f"{where} is {_kind(message)} (write it with role and content)")
    if not isinstance(message.get("role"), str):
        raise GuidedError(f"{where} has no role (write user, assistant or system)")
    content = message.get("content")
    if isinstance(content, list | tuple):
        content = _parts(content, where)
        message = {**message, "content": content}
    if content is None and message.get("tool_calls"):
        return dict(message)
    if not isinstance(content, str):
        what = "no content" if content is None else f"as content {_kind(content)}"
        raise GuidedError(f"{where} ({message['role'][:20]}) has {what} (write its text)")
    _whole(content, where)
    return dict(message)


def _parts(parts: Any, where: str) -> str:
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else _kind(part)
            raise GuidedError(f"{where} has a part that is no text ({str(kind)[:40]}; only text is read)")
        texts.append(part["text"])
    return "".join(texts)


def _whole(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise GuidedError(f"{what}: half a character at {error.start} (a lone surrogate; repair the text)") from None
    return text


def _kind(value: object) -> str:
    """What a value is, in a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool | int | float):
        return str(value) if isinstance(value, bool | float) or abs(value) < 10**15 else "a huge number"
    if isinstance(value, str):
        return "text"
    return (
        "a mapping"
        if isinstance(value, Mapping)
        else "a list"
        if isinstance(value, list | tuple)
        else type(value).__name__
    )
