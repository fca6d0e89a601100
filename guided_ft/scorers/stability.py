"""How far a map can be trusted: do two halves of the examples rank the components alike?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..selection.correlation import pearson, spearman

LOW = 0.5
"""Split-half rank correlation below which a map is mostly noise."""


def stability(half_a: Mapping[str, np.ndarray], half_b: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Compare two maps of the same components from two halves of the examples, kind by kind.

    ::

        split_half = Spearman(half_a, half_b)
        ceiling    = sqrt(2 split_half / (1 + split_half))

    The ceiling is the rank correlation that a perfect method could reach with the scores of all examples: the root of
    their reliability, which two halves predict by the Spearman-Brown formula (Spearman 1910; Brown 1910).

    Args:
        half_a: arrays by kind, any shape and any scale.
        half_b: the same components.

    Returns:
        By kind: ``split_half``, ``pearson`` and ``ceiling``. JSON.
    """
    found = {}
    for kind, a in half_a.items():
        a, b = np.asarray(a, float).ravel(), np.asarray(half_b[kind], float).ravel()
        split_half = spearman(a, b)
        positive = max(split_half, 0.0)
        found[kind] = {
            "split_half": round(split_half, 4),
            "pearson": round(pearson(a, b), 4),
            "ceiling": round(float(np.sqrt(2 * positive / (1 + positive))), 4),
        }
    return found


def warn_if_unstable(meta: Mapping[str, Any]) -> None:
    """Warn, in one line, of the kinds whose split-half rank correlation is below 0.5."""
    low = {k: v["split_half"] for k, v in (meta.get("stability") or {}).items() if v["split_half"] < LOW}
    if low:
        kinds = ", ".join(f"{kind} {value:.2f}" for kind, value in low.items())
        warnings.warn(
            f"{meta.get('method', 'scores')}: two halves of the {meta['task']['examples']} examples rank components "
            f"differently (rank correlation: {kinds}): add examples before trusting this map",
            stacklevel=3,
        )
