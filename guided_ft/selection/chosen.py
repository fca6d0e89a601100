"""What may be chosen, components or directions, and how either is read back. Imports no torch."""

from __future__ import annotations

import os

from ..system.files import kind_of
from .selection import Selection
from .subspace import Subspace

Chosen = Selection | Subspace


def load_chosen(path: str | os.PathLike[str]) -> Chosen:
    """Read what ``Selection.save`` or ``Subspace.save`` wrote: the file says which it is."""
    return Subspace.load(path) if kind_of(path) == "subspace" else Selection.load(path)
