"""What people hand over as a data set, and what is meant. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import GuidedError
from .classes import Row, class_names, named_classes

Given = Iterable[Row] | Mapping[str, Any]
"""A data set: rows, a mapping of columns, or splits of either."""

SPLIT = "train"


def rows_of(dataset: Given) -> Iterable[Row]:
    """The rows of a data set, of the only split of a DatasetDict or of its ``train``, or of a mapping of columns; a
    class of ``datasets`` by its name.

    Raises:
        GuidedError: for anything else.
    """
    if isinstance(dataset, str) or not isinstance(dataset, Iterable):
        mend = "Task.load reads a file" if isinstance(dataset, str) else "a list of rows will do"
        raise GuidedError(f"dataset: {named(dataset)} has no rows ({mend})")
    if not isinstance(dataset, Mapping):
        return named_classes(dataset, class_names(getattr(dataset, "features", None)))
    if not dataset:
        raise GuidedError("dataset: it is empty (give it rows)")
    if all(isinstance(column, list) and not _are_rows(column) for column in dataset.values()):
        lengths = {len(column) for column in dataset.values()}
        if len(lengths) > 1:
            raise GuidedError(f"dataset: its columns have {min(lengths)} to {max(lengths)} rows (make them alike)")
        return [dict(zip(dataset, values, strict=True)) for values in zip(*dataset.values(), strict=True)]
    if any(isinstance(split, str) or not isinstance(split, Iterable) for split in dataset.values()):
        raise GuidedError("dataset: a single row (write a list of rows: [row])")
    if len(dataset) > 1 and SPLIT not in dataset:
        names = ", ".join(map(str, dataset))
        raise GuidedError(f"dataset: it has the splits {names} (choose one: dataset[{next(iter(dataset))!r}])")
    return rows_of(dataset[SPLIT] if SPLIT in dataset else next(iter(dataset.values())))


def _are_rows(values: list) -> bool:
    """Whether a list is a split of rows, and not a column: of text, numbers, or lists of messages."""
    return bool(values) and all(isinstance(value, Mapping) for value in values)


def named(value: object) -> str:
    """A value in the words of a refusal."""
    return f"a {type(value).__name__}" if not isinstance(value, str) else f"the text {value[:40]!r}"
