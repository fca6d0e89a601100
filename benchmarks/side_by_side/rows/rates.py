"""Learning rates: the best of a sweep, whether the sweep was wide enough, and what a rule would have lost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .rows import Row

EXAMPLES = 100
"""Validation examples of a run (of facts to be remembered half as many as were trained, if that is less)."""


@dataclass(frozen=True)
class Sweep:
    """One arm's sweep: rates in order, and per rate the means over its runs (forgetting in nats, infinite if a run
    diverged, so that it loses every tie)."""

    rates: tuple[float, ...]
    validation: tuple[float, ...]
    forgetting: tuple[float, ...]
    score: tuple[float, ...]
    runs: int

    @property
    def place(self) -> int:
        """Index of the best rate: highest validation, ties to the lower forgetting, then to the lower rate.

        The test score is never looked at.
        """
        indices = range(len(self.rates))
        return max(indices, key=lambda i: (self.validation[i], -self.forgetting[i], -self.rates[i]))

    @property
    def best(self) -> float:
        return self.rates[self.place]

    @property
    def gentlest(self) -> float:
        """The lowest rate whose validation is within one standard error of the best one's, so that its examples cannot
        tell the two apart (the one-standard-error rule: Breiman et al., Classification and Regression Trees, 1984)."""
        best = self.validation[self.place]
        examples = EXAMPLES * self.runs / len(self.rates)
        error = math.sqrt(best * (100 - best) / examples)
        return next(rate for rate, found in zip(self.rates, self.validation, strict=True) if found >= best - error)

    @property
    def on_edge(self) -> bool:
        """Whether the best rate is the lowest or highest that was tried: a better one may lie outside."""
        return self.place in (0, len(self.rates) - 1)

    @property
    def beyond(self) -> float | None:
        """The next rate past the edge that the best lies on, in the series 1, 3, 10; None if it lies between others, is
        alone, or no better in validation than its neighbour."""
        if not self.on_edge or len(self.rates) < 2:
            return None
        place = self.place
        outward = 1 if place else -1
        if self.validation[place] == self.validation[place - outward]:
            return None
        return _series(round(2 * math.log10(self.best)) + outward)

    def regret(self, rate: float) -> float | None:
        """Points of test score that ``rate`` loses against the best by validation; negative if it gains. See ``at``."""
        score = self.at(self.score, rate)
        return None if score is None else self.score[self.place] - score

    def at(self, values: tuple[float, ...], rate: float) -> float | None:
        """One of the means, read at ``rate``: linear in log rate between the two neighbours that were tried; None
        outside the sweep."""
        if rate in self.rates:
            return values[self.rates.index(rate)]
        if not (self.rates[0] <= rate <= self.rates[-1]) or self.rates[0] <= 0:
            return None
        high = next(i for i, known in enumerate(self.rates) if known > rate)
        low = high - 1
        share = math.log(rate / self.rates[low]) / math.log(self.rates[high] / self.rates[low])
        # Not low + share * (high - low): that is no number where the lower rate diverged.
        return (1 - share) * values[low] + share * values[high]


def sweep_of(rows: Iterable[Row]) -> Sweep | None:
    """The sweep that these runs of one arm make; None for no runs."""
    by_rate: dict[float, list[Row]] = {}
    for row in rows:
        by_rate.setdefault(float(row["lr"]), []).append(row)
    if not by_rate:
        return None
    rates = tuple(sorted(by_rate))
    means = {field: tuple(_mean(by_rate[r], field) for r in rates) for field in ("validation", "forgetting", "score")}
    return Sweep(rates, means["validation"], means["forgetting"], means["score"], sum(map(len, by_rate.values())))


def best_rate(rows: Iterable[Row]) -> float | None:
    """The best learning rate of a sweep (see ``Sweep.place``); None for no runs."""
    sweep = sweep_of(rows)
    return sweep.best if sweep else None


def _series(place: int) -> float:
    """The series 1, 3, 10, 30 at a place: 1 at 0, 1e-3 at -6."""
    return float(f"{3 if place % 2 else 1}e{place // 2}")


def _mean(rows: list[Row], field: str) -> float:
    # fsum: the mean does not depend on the order of the rows.
    return math.fsum(math.inf if row[field] is None else row[field] for row in rows) / len(rows)
