"""Paired statistics of two arms: spread, intervals, p values, effect sizes. numpy only.

Runs are paired by seed, which fixes data, order and initialization; several random draws of one seed share these, so
that a seed is one cluster, not several runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Draws = Mapping[int, float]
"""Values of one arm at one seed, by random draw; an arm without draws has one."""

Clusters = list[np.ndarray]
"""Per seed, the differences of its pairs."""

RESAMPLES = 10_000
EXACT = 200_000
"""Relabellings that are enumerated at most; beyond that as many are drawn."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for one value) of ``runs`` values."""

    mean: float
    deviation: float | None
    runs: int


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and sample standard deviation; None for no values."""
    if not values:
        return None
    ordered = np.sort(np.asarray(values, float))
    return Spread(float(ordered.mean()), float(ordered.std(ddof=1)) if len(ordered) > 1 else None, len(ordered))


def paired(first: Mapping[int, Draws], second: Mapping[int, Draws]) -> dict[int, tuple[list[float], list[float]]]:
    """Per seed that both arms have: their values, pair by pair.

    Draws are paired with the same draw; an arm with a single one is paired with every draw of the other.
    """
    found = {}
    for seed in sorted(first.keys() & second.keys()):
        a, b = first[seed], second[seed]
        if len(a) == 1:
            pairs = [(next(iter(a.values())), b[draw]) for draw in sorted(b)]
        elif len(b) == 1:
            pairs = [(a[draw], next(iter(b.values()))) for draw in sorted(a)]
        else:
            pairs = [(a[draw], b[draw]) for draw in sorted(a.keys() & b.keys())]
        if pairs:
            found[seed] = ([x for x, _ in pairs], [y for _, y in pairs])
    return found


def differences(pairs: Mapping[int, tuple[list[float], list[float]]]) -> Clusters:
    """Per seed, the first arm minus the second, pair by pair (from ``paired``)."""
    return [np.asarray(a, float) - np.asarray(b, float) for a, b in pairs.values()]


def mean_difference(clusters: Clusters) -> float:
    """The mean over seeds of the mean over a seed's pairs: a seed with more draws weighs no more."""
    return float(np.mean(_seed_means(clusters)))


def interval(clusters: Clusters, level: float = 0.95, seed: int = 0) -> tuple[float, float] | None:
    """A bootstrap interval of the mean difference that resamples whole seeds; None for fewer than two.

    The percentile interval of n resampled values is too narrow for small n (it uses the variance over n, not n - 1,
    and the normal quantile for Student's t); as in Hesterberg (2015, arXiv 1411.5279) it is widened by
    sqrt(n / (n - 1)) * t / z; here as a factor around the mean, because the quantiles of few seeds end at their
    extremes.
    """
    means = _seed_means(clusters)
    n = len(means)
    if n < 2:
        return None
    draws = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    tail = (1 - level) / 2
    low, high = np.quantile(means[draws].mean(axis=1), [tail, 1 - tail])
    factor = math.sqrt(n / (n - 1)) * student_quantile(1 - tail, n - 1) / NormalDist().inv_cdf(1 - tail)
    centre = float(means.mean())
    return centre + factor * float(low - centre), centre + factor * float(high - centre)


def _seed_means(clusters: Clusters) -> np.ndarray:
    """One value a seed, sorted: the order in which rows were written changes nothing."""
    return np.sort([float(np.sort(values).mean()) for values in clusters])


def student_quantile(share: float, degrees: int) -> float:
    """The quantile (``share`` from 0.5 to below 1) of Student's t with a whole number of degrees of freedom."""
    low, high = 0.0, 1.0
    while _student_cdf(high, degrees) < share:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, degrees) < share else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, degrees: int) -> float:
    """Abramowitz and Stegun 26.7.3 and 26.7.4: finite sums, for t >= 0."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    if degrees % 2:
        term, total = math.cos(angle), 0.0
        for i in range(1, degrees - 1, 2):
            total += term
            term *= square * (i + 1) / (i + 2)
        inside = 2 / math.pi * (angle + sine * total)
    else:
        term, total = 1.0, 0.0
        for i in range(0, degrees - 1, 2):
            total += term
            term *= square * (i + 1) / (i + 2)
        inside = sine * total
    return 0.5 + inside / 2


def permutation_p(first: Mapping[int, Draws], second: Mapping[int, Draws], seed: int = 0) -> float | None:
    """Two-sided p value of "within a seed, which run belongs to which arm is arbitrary".

    Every relabelling of the runs within their seeds is counted (beyond ``EXACT`` a seeded sample of that many, with
    the observed one), and p is the share whose mean difference is at least as far from 0. With one run an arm and seed
    this is the paired sign-flip test; with one located run against k random draws it asks whether the located one could
    be another draw, and (k + 1) ** seeds relabellings are possible. None if no seed is shared.
    """
    options = _relabelled(first, second)
    if not options:
        return None
    observed = abs(sum(float(values[0]) for values in options))
    reach = observed - 1e-9 * max(1.0, observed)
    count = math.prod(len(values) for values in options)
    if count <= EXACT:
        sums = np.zeros(1)
        for values in options:
            sums = np.add.outer(sums, values).ravel()
        return float(np.mean(np.abs(sums) >= reach))
    rng = np.random.default_rng(seed)
    sums = np.sum([rng.choice(np.sort(values), EXACT) for values in options], axis=0)
    return float((np.sum(np.abs(sums) >= reach) + 1) / (EXACT + 1))


def least_p(first: Mapping[int, Draws], second: Mapping[int, Draws]) -> float | None:
    """The smallest p value that ``permutation_p`` could give for so many runs; None if no seed is shared."""
    sizes = [(len(first[s]), len(second[s])) for s in sorted(first.keys() & second.keys())]
    if not sizes:
        return None
    # With as many runs on both sides the mirrored labelling is as extreme.
    sides = 2 if all(a == b for a, b in sizes) else 1
    return min(1.0, sides / math.prod(math.comb(a + b, a) for a, b in sizes))


def _relabelled(first: Mapping[int, Draws], second: Mapping[int, Draws]) -> list[np.ndarray]:
    """Per shared seed, the difference of means under every relabelling; the observed one comes first."""
    options = []
    for seed in sorted(first.keys() & second.keys()):
        a, b = sorted(first[seed].values()), sorted(second[seed].values())
        values = np.asarray([*a, *b], float)
        picks = [list(pick) for pick in itertools.combinations(range(len(values)), len(a))]
        sums = values[np.asarray(picks)].sum(axis=1)
        options.append(sums / len(a) - (values.sum() - sums) / len(b))
    return options


def effect_size(clusters: Clusters) -> float | None:
    """Cohen's d_z: the mean of the paired differences over their standard deviation; None if that is 0 or unknown."""
    values = np.sort(np.concatenate(clusters)) if clusters else np.zeros(0)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    # Equal differences have no spread but that of rounding.
    return float(values.mean()) / deviation if deviation > 1e-12 * max(1.0, float(np.abs(values).max())) else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for a family of comparisons (Holm 1979, step down); a None stays None and is not counted."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = highest
    return adjusted
