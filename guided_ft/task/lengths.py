"""Rows that are longer than is read: cut or, where nothing of an answer would be left, left out; both are counted."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..errors import GuidedError
from .tokens import IGNORE, Tokens

logger = logging.getLogger("guided_ft")


class Lengths:
    """Counts how rows fit into ``max_length`` tokens (None: without end).

    What is cut off is what the trainers cut off: the end.
    """

    def __init__(self, max_length: int | None) -> None:
        self.max_length = max_length
        self.rows = self.out = self.cut = 0

    def room(self, sequences: Sequence[Tokens]) -> bool:
        """Whether all of a row's sequences keep something to learn. Where there is nothing anyway, that is not for the
        length to say: it stays, for others to refuse."""
        self.rows += 1
        end = self.max_length
        out = any(_scored(s.labels) and not _scored(s.labels[:end]) for s in sequences)
        self.out += out
        self.cut += not out and end is not None and any(len(s.ids) > end for s in sequences)
        return not out

    def tell(self, what: str, rows: str, key: str) -> None:
        """Say what was left out and cut, if anything was.

        Args:
            what: the source, which messages begin with.
            rows: what to call them: ``rows``, or ``train rows``.
            key: the setting that says how many tokens are read.

        Raises:
            GuidedError: if all rows are left out.
        """
        if self.rows and self.out == self.rows:
            raise GuidedError(
                f"{what}: none of {self.rows} {rows} has an answer within {self.max_length} tokens (raise {key}, or "
                "shorten the prompts)"
            )
        if self.out or self.cut:
            logger.warning(
                "%s: of %d %s, %d have no answer within %d tokens and are left out, %d are cut (%s)",
                *(what, self.rows, rows, self.out, self.max_length, self.cut, key),
            )


def _scored(labels: Sequence[int]) -> bool:
    """Whether something is asked after the first token, before which nothing is read."""
    return any(label != IGNORE for label in labels[1:])
