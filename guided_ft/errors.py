"""The one error that users see, the one kind of it that is told apart, and the words it is made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GuidedError(ValueError):
    """A mistake that the user can mend: one line that says what, where and how.

    Example: ``L3.H9: this model has 8 heads in layer 3 (L3.H0 to L3.H7)``.
    """


class Diverged(GuidedError):
    """A training that made numbers which are not finite: it would again, with the same rate and data."""


MANY = 20
"""Words that one line can list."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the mend for a mistyped ``word``: the nearest known one, or all, as far as a line can hold them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    rest = f", ... ({len(names)} in all)" if len(names) > MANY else ""
    return f"one of: {', '.join(names[:MANY])}{rest}"


def pick(table: dict, name: str, what: str):
    """Look ``name`` up in ``table``; an unknown name is a GuidedError that names the nearest key."""
    try:
        return table[name]
    except (KeyError, TypeError):
        raise GuidedError(f"{what}: unknown value {name!r} ({did_you_mean(str(name), table)})") from None
