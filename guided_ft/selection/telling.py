"""Numbers and counts as short text, for ``print`` and the terminal. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

_STEPS = "▁▂▃▄▅▆▇█"


def bars(values: np.ndarray) -> str:
    """One character for each value ``[L]``, from the lowest (or zero, if that is lower) to the highest."""
    low, high = min(0.0, float(values.min())), float(values.max())
    if high <= low:
        return _STEPS[0] * len(values)
    places = ((values - low) / (high - low) * len(_STEPS)).astype(int)
    return "".join(_STEPS[i] for i in places.clip(0, len(_STEPS) - 1))


def counted(counts: Mapping[str, int]) -> str:
    """``1 head, 34 neurons``: what there is none of is left out."""
    return ", ".join(f"{n:,} {kind}{'s' * (n != 1)}" for kind, n in counts.items() if n)


def ranked(scores: Iterable[tuple[object, float]]) -> str:
    """``L3.H5 12.3  L4.H2 11.1``"""
    return "  ".join(f"{name} {score:.3g}" for name, score in scores)


def layers(numbers: Iterable[int]) -> str:
    """``layer 3``, or ``layers 3 to 7``, or ``4 layers from 3 to 9``."""
    found = sorted(set(numbers))
    if len(found) == 1:
        return f"layer {found[0]}"
    whole = found[-1] - found[0] + 1 == len(found)
    return f"layers {found[0]} to {found[-1]}" if whole else f"{len(found)} layers from {found[0]} to {found[-1]}"


def made(meta: Mapping[str, object], sizes: Mapping[str, int]) -> str:
    """How a map was made, and of what, in one line."""
    sides = ", two-sided" if meta.get("retain") else ""
    passes, seconds = meta.get("passes"), meta.get("seconds")
    known = isinstance(passes, int) and isinstance(seconds, int | float)
    cost = f" ({passes} passes, {seconds:.1f} s)" if known else ""
    return f"{meta.get('method', 'scores')}{sides}: {counted(sizes)}{cost}"
