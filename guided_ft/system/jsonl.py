"""Files of lines: JSON lines, and plain text."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from ..errors import GuidedError
from .files import read_text


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield every object of a JSON-lines file with the number of its line.

    Raises:
        GuidedError: for a line that is no object, with its number.
    """
    for number, line in enumerate(lines(read_text(path).removeprefix("\ufeff")), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise GuidedError(f"{path}:{number}: not a JSON object (write one object per line)")
        yield number, row


def lines(text: str) -> list[str]:
    """Lines of a file: ``splitlines`` would also split at what JSON, and a text, may have inside a line."""
    return text.replace("\r\n", "\n").split("\n")
