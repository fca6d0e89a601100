"""Classes by their names: ``datasets`` stores a ``ClassLabel`` as a number, and the names beside the rows.

A label is learned as text, so its number says nothing. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, Any]
"""One example as it was handed over: values of any kind by column."""

Names = Mapping[str, list[str]]
"""Names of the classes, by number, of each column that holds classes."""


def class_names(features: object) -> Names:
    """What the features of a ``datasets.Dataset`` say of its columns; nothing for anything else."""
    if not isinstance(features, Mapping):
        return {}
    found = {str(column): getattr(feature, "names", None) for column, feature in features.items()}
    return {column: list(names) for column, names in found.items() if names}


def parquet_class_names(metadata: Mapping[bytes, bytes] | None) -> Names:
    """What ``datasets`` wrote into the schema of a Parquet file; nothing where it did not write the file."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        found = {column: feature["names"] for column, feature in features.items() if "names" in feature}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {column: [str(name) for name in names] for column, names in found.items() if isinstance(names, list)}


def named_classes(rows: Iterable[Row], names: Names) -> Iterable[Row]:
    """The rows with names in place of numbers; None where the class is not known, which ``datasets`` writes as -1."""
    return (_named(row, names) for row in rows) if names else rows


def _named(row: Row, names: Names) -> Row:
    known = {column: names[column] for column in names if isinstance(row.get(column), int)}
    return {**row, **{column: _name(row[column], of) for column, of in known.items()}}


def _name(number: int, names: list[str]) -> str | None:
    return names[number] if 0 <= number < len(names) else None
