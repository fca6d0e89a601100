"""Reads the rows of one source, which all are in one format, into TRL's words. Imports no torch."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import GuidedError
from .formats import CHAT, FORMATS, PAIRED, TRL, recognise
from .given import Row
from .messages import messages, said
from .spread import spread

logger = logging.getLogger("guided_ft")

ANSWERS = ("completion", "answer", "output", "response", "label")
"""Columns that answer a prompt that is put together from others, the first one there."""

_BRACED = re.compile(r"\{([^{}]+)\}")
"""What a prompt may have in the place of a column."""

_NAME = re.compile(r"\w[\w .-]*")
"""What reads as the name of a column, also of one that is not there; ``{"a": 1}`` does not."""


class Reader:
    """Turns rows into TRL's: ``prompt`` + ``completion``, ``prompt`` + ``chosen`` + ``rejected``, ``messages``,
    ``text`` or ``input_ids``, with nothing else but what the chat template or patching needs.

    Args:
        form: name of the format (see ``formats.FORMATS``), or ``auto``.
        columns: TRL's name and one's own for each column that is read, such as ``{"prompt": "statement"}``.
        prompt: what puts the prompt together from columns, such as ``{context}\\n{question}``.
    """

    def __init__(self, form: str = "auto", columns: Mapping[str, str] | None = None, prompt: str | None = None) -> None:
        self.form, self.columns, self.prompt = form, columns or {}, prompt
        self.dropped: set[str] = set()
        self._first: tuple[tuple[str, ...], str] | None = None

    def __call__(self, row: object) -> Row:
        """A row in TRL's words. Raises GuidedError, without the row's number, for one that is in no format."""
        if not isinstance(row, Mapping):
            raise GuidedError(
                f"expected a mapping of columns, got {str(row)[:40]!r} (of a DatasetDict, give one split)"
            )
        there = {key: value for key, value in row.items() if value is not None}
        mapped, used = self._renamed(there, row)
        form = recognise(mapped, self.form)
        read = form.read(mapped)
        kept = [key for key in form.also if key in PAIRED and mapped.get(key) is not None]
        for key in kept:
            read[key] = _alike(key, mapped[key], read)
        self.dropped |= {
            str(key) for key in (mapped if not used else there) if key not in {*form.keys, *form.also, *used}
        }
        self._check_like_first(read)
        return read

    @property
    def named(self) -> set[str]:
        """The columns that its settings name: rows without any of them were written for other settings."""
        of_format = FORMATS[self.form].keys if self.form in FORMATS and not self.columns else ()
        return {*of_format, *self.columns.values(), *_BRACED.findall(self.prompt or "")}

    def _renamed(self, row: Row, given: Mapping[Any, Any]) -> tuple[Row, set[str]]:
        """The row with the names that were mapped, and which columns that took (none: nothing is mapped).

        Args:
            given: the row with its empty columns.
        """
        if not self.columns and self.prompt is None:
            return row, set()
        missing = [name for name in self.columns.values() if name not in row]
        if missing:
            raise GuidedError(f"no column {missing[0][:40]!r}, which columns maps (there: {_few(row)})")
        mapped = {ours: row[theirs] for ours, theirs in self.columns.items()}
        used = {*self.columns.values()}
        if self.prompt is not None:
            if not self.columns:
                mapped = {key: row[key] for key in (*TRL, *PAIRED) if key in row}
                answer = next((key for key in ANSWERS if key in row), None)
                if answer is not None and not {"completion", "chosen"} & {*mapped}:
                    mapped.pop("label", None)
                    mapped["completion"] = _answer(row[answer])
                    used.add(answer)
            mapped["prompt"], named = self._filled(row, given)
            used |= named
        return mapped, used | {*mapped}

    def _filled(self, row: Row, given: Mapping[Any, Any]) -> tuple[str, set[str]]:
        """The prompt of a row, and the columns that it is put together from; other braces stay as they are."""
        used: set[str] = set()

        def written(found: re.Match[str]) -> str:
            name = found[1]
            if name in row:
                used.add(name)
                return _written(row[name], name)
            if name not in given and not _NAME.fullmatch(name):
                return found[0]
            near = difflib.get_close_matches(name, map(str, row), n=1)
            mend = f"did you mean {near[0][:40]!r}?" if near else f"there: {_few(row)}"
            raise GuidedError(f"no column {name[:40]!r}, which the prompt names ({mend})")

        return _BRACED.sub(written, self.prompt or ""), used

    def _check_like_first(self, read: Row) -> None:
        kind = (tuple(key for key in read if key not in PAIRED)), shape_of(read)
        if "input_ids" in read:
            kind = ("input_ids", *(key for key in ("rejected_ids",) if key in read)), "ready tokens"
        if self._first is None:
            self._first = kind
        elif kind != self._first:
            told = [f"{' + '.join(map(str, keys))} ({form})" for keys, form in (kind, self._first)]
            raise GuidedError(f"it is {told[0]}, but the first row is {told[1]} (write all rows in one format)")


def read_all(numbered: Iterable[tuple[str, object]], reader: Reader, what: str) -> list[Row]:
    """All rows in TRL's words; columns that are left out are told, once.

    Args:
        numbered: what messages call each row, and the row.
        what: the source, for the message about left-out columns.
    """
    rows = []
    for where, row in numbered:
        try:
            rows += [reader(each) for each in spread(row)]
        except GuidedError as error:
            raise GuidedError(f"{where}: {error}") from None
    tell_dropped(reader, what)
    return rows


def tell_dropped(reader: Reader, what: str) -> None:
    if reader.dropped:
        logger.warning("%s: columns that are not read: %s", what, _few(sorted(reader.dropped)))


def asked(row: Row) -> Any:
    """What a row asks: its prompt, or the messages before the last answer; None for text, which asks nothing."""
    if "messages" in row:
        *before, last = row["messages"]
        return before if before and last["role"] == "assistant" else None
    return row.get("prompt")


def answered(row: Row) -> str:
    """The text of a row's right answer; of a row that asks nothing, nothing."""
    if "messages" in row:
        return str(row["messages"][-1].get("content") or "") if asked(row) else ""
    found: Any = row.get("completion", row.get("chosen", ""))
    return found if isinstance(found, str) else str(found[-1].get("content") or "")


def shape_of(row: Row) -> str:
    """Whether a row is ``messages`` or ``text``."""
    return "messages" if any(isinstance(row.get(key), list) for key in ("prompt", "messages")) else "text"


def last_answer_apart(row: Row) -> Row:
    """Messages as a prompt and the completion that alone is learned; other rows as they are."""
    if asked(row) is None or "messages" not in row:
        return row
    *before, last = row["messages"]
    return {**{key: row[key] for key in CHAT if key in row}, "prompt": before, "completion": [last]}


def _alike(key: str, value: object, read: Row) -> Any:
    """A column for patching is text or messages, as the prompt is; the others are the template's."""
    if key not in ("corrupted_prompt", "wrong"):
        return value
    found = messages(value, key) if isinstance(value, list) else said(value, key)
    if type(found) is not type(read.get("prompt")):
        raise GuidedError(f"{key}: it must be text, or a list of messages, as the prompt is")
    return found


def _written(value: object, name: str) -> str:
    """A column as it stands in a prompt: text, a number, or a list of texts, one a line."""
    if isinstance(value, list | tuple):
        return "\n".join(_written(each, name) for each in value)
    return str(value) if isinstance(value, int | float) and abs(value) < 10**15 else said(value, name)


def _answer(value: object) -> Any:
    return " " + _written(value, "the answer").lstrip() if not isinstance(value, list | Mapping) else value


def _few(names: Iterable[object]) -> str:
    shown: Sequence[str] = [repr(str(name)[:40]) for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
