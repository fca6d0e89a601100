"""Data sets of the hub, and what stands in for one that is out of reach. Imports no torch."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any

from ..errors import GuidedError
from ..task.given import Row, rows_of
from ..task.read_file import ENDINGS
from ..task.reader import Reader, read_all
from ..task.samples import sample

if TYPE_CHECKING:
    from ..recipe.recipe import Data, Recipe

logger = logging.getLogger("guided_ft")


def read_hub(data: Data, seed: int, wanted: int) -> tuple[list[Row], None]:
    """Rows of a hub data set in TRL's words, in an order drawn by the seed."""
    try:
        found = _load(data)
        numbered = [(f"data: {data.name!r} row {i}", dict(row)) for i, row in enumerate(rows_of(found))]
    except Exception as error:  # datasets raises many kinds
        raise GuidedError(f"data: {data.name!r} cannot be loaded ({_told(error)})") from None
    rows = read_all(numbered, Reader(data.format, data.columns, data.prompt), f"data: {data.name!r}")
    random.Random(seed).shuffle(rows)
    return rows, None


def within_reach(recipe: Recipe) -> Recipe:
    """The recipe, on its fallback if its data set is on a hub that cannot be reached; this is told.

    The recipe that comes back says ``source: sample``, so a run never claims data that it did not read.
    """
    data = recipe.data
    if data.source != "hub" or data.fallback is None:
        return recipe
    try:
        _load(data)
    except ConnectionError as error:
        logger.warning(
            "data: %r is out of reach (%s): this run is on %r, a small made-up sample with the same columns "
            "(data.path=FILE runs on a local copy)",
            *(data.name, _told(error), data.fallback),
        )
        return recipe.model_copy(update={"data": on_sample(data)})
    except Exception:
        return recipe  # whoever reads the rows says what is wrong
    return recipe


def on_sample(data: Data) -> Data:
    """The data section on its fallback: with fewer rows, where it asks for more than that has."""
    changes: dict[str, object] = {"source": "sample", "name": data.fallback, "subset": None, "fallback": None}
    for key, part in (("train", 2), ("test", 6)):
        asked: str | int = getattr(data, key)
        changes[key] = min(asked, len(sample(str(data.fallback))) // part) if isinstance(asked, int) else asked
    return data.model_copy(update=changes)


def _load(data: Data) -> Any:
    from datasets import load_dataset

    options: dict[str, Any] = {}
    if data.subset:
        options = {("data_files" if data.subset.lower().endswith(ENDINGS) else "name"): data.subset}
    return load_dataset(data.name, split=data.split, **options)


def _told(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
