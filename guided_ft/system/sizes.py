"""Sizes of files as people write them. Imports no torch."""

from __future__ import annotations

import re

from ..errors import GuidedError

AUTO_BYTES = 2 << 30
"""Size of a prefix cache whose size is not given."""

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def parse_size(size: str | int) -> int:
    """Read ``"500MB"``, ``"2GiB"`` or a number of bytes; ``"auto"`` is 2 GiB. Raises GuidedError otherwise."""
    if size == "auto":
        return AUTO_BYTES
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([a-z]*)", str(size).strip().lower())
    unit = _UNITS.get(found[2]) if found else None
    if found is None or unit is None or isinstance(size, bool) or not float(found[1]) * unit >= 1:
        raise GuidedError(f"prefix_cache: {size!r} is not a size (write auto, 500MB or 2GiB)")
    return int(float(found[1]) * unit)
