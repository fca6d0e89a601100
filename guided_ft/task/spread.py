"""Rows that hold several: self-instruct's instances, and OpenAssistant's trees of ranked replies. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def spread(row: object) -> list[Any]:
    """The rows that a row holds, in the formats of ``formats.py``; any other row alone."""
    if isinstance(row, Mapping):
        if isinstance(row.get("instances"), list) and "instruction" in row:
            return [_instance(row["instruction"], each) for each in row["instances"]]
        root = row.get("prompt")
        if isinstance(root, Mapping) and "replies" in root:
            return list(_pairs(root, []))
    return [row]


def _instance(instruction: object, instance: object) -> Any:
    return {"instruction": instruction, **instance} if isinstance(instance, Mapping) else instance


def _pairs(node: Mapping[str, Any], before: list[dict[str, Any]]) -> Any:
    """The best reply to each message of a user against each other ranked one, after all that was said before."""
    said = [*before, {"role": {"prompter": "user"}.get(node.get("role", ""), "assistant"), "content": node.get("text")}]
    replies = [reply for reply in node.get("replies") or () if isinstance(reply, Mapping)]
    ranked = [reply for reply in replies if isinstance(reply.get("rank"), int) and reply.get("role") == "assistant"]
    answers = [[{"role": "assistant", "content": r.get("text")}] for r in sorted(ranked, key=lambda r: r["rank"])]
    for worse in answers[1:]:
        yield {"prompt": said, "chosen": answers[0], "rejected": worse}
    for reply in replies:
        yield from _pairs(reply, said)
