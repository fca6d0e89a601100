"""Arrays on disk: safetensors, and JSON with its arrays beside it. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import GuidedError
from .files import MEND, Json, opened, read_json, replacing, write_json

MAX_ARRAYS = 1 << 36
"""Largest file of arrays that is read: above the directions of a model of 70 billion parameters."""


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    with replacing(path) as temporary:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, temporary)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a safetensors file. Raises GuidedError if it is damaged or too large."""
    from safetensors import SafetensorError, safe_open

    # What cannot be read, or is too large, is told as of any other file.
    with opened(path, MAX_ARRAYS):
        pass
    try:
        # One array at a time, so that there is no second copy of the whole.
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise GuidedError(f"{path}: not a valid safetensors file ({error}): {MEND}") from None


def write_with_arrays(path: str | os.PathLike[str], data: Json, arrays: Mapping[str, np.ndarray]) -> None:
    """Write JSON and, if there are any, its arrays beside it (``plan.json``, ``plan.safetensors``)."""
    if arrays:
        write_arrays(_arrays_of(path), arrays)
    write_json(path, data | ({"arrays": True} if arrays else {}))


def read_with_arrays(path: str | os.PathLike[str], kind: str, version: int = 1) -> tuple[Json, dict[str, np.ndarray]]:
    """Read what ``write_with_arrays`` wrote, as ``read_json``; that both were written together is not known here."""
    data = read_json(path, kind, version)
    if not data.get("arrays"):
        return data, {}
    beside = _arrays_of(path)
    if not beside.exists():
        raise GuidedError(f"{path}: without {beside.name}, which belongs to it (keep the two together, or {MEND})")
    return data, read_arrays(beside)


def _arrays_of(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path.with_suffix(".safetensors") if path.suffix == ".json" else path.with_name(path.name + ".safetensors")


def beside(path: str | os.PathLike[str]) -> Path:
    """Where the JSON that belongs to a file of arrays is: names that differ after a dot must not share it."""
    path = Path(path)
    return path.with_suffix(".json") if path.suffix == ".safetensors" else path.with_name(path.name + ".json")
