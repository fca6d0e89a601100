"""Keys as recipes once spelled them, moved to where they are read today. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from ..scorers.catalogue import CATALOGUE
from ..system.files import Json


def renewed(data: Mapping[str, object]) -> Json:
    """The recipe with what a method compares the task with, once ``localize.options.against``, as ``localize.retain``.

    Args:
        data: a recipe's sections, not checked yet.
    """
    localize = data.get("localize")
    options = localize.get("options") if isinstance(localize, Mapping) else None
    if not isinstance(localize, Mapping) or not isinstance(options, Mapping) or "against" not in options:
        return dict(data)
    method = localize.get("method")
    if not isinstance(method, str) or method not in CATALOGUE or not CATALOGUE[method].compares:
        return dict(data)
    rest = {key: value for key, value in options.items() if key != "against"}
    return {**data, "localize": {**localize, "retain": options["against"], "options": rest}}
