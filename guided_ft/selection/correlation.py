"""How alike two arrays of scores are. Imports no torch."""

from __future__ import annotations

import numpy as np


def standings(values: np.ndarray) -> np.ndarray:
    """Places from 0 in increasing order; ties share their mean place."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse.ravel()]


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation, -1 to 1; 0 if one of them is constant."""
    # In float64 before the mean is taken: the float32 mean of equal scores need not equal them.
    a, b = (x - x.mean() for x in (a.astype(np.float64), b.astype(np.float64)))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else 0.0


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of their orders, -1 to 1; 0 if one of them is constant."""
    return pearson(standings(a), standings(b))
