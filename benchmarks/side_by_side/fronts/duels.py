"""``Duel``: directions against another arm, pair by pair of task and seed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..rows.statistics import differences, holm, interval, mean_difference, paired, permutation_p
from .front import PRIMARY, Fronts, Line, equal_score, shared

OURS = "directions"


@dataclass(frozen=True)
class Duel:
    """What was seen where both arms ran.

    Args:
        pairs: of one task and seed.
        score, interval, score_p: mean difference of the scores at the primary figure, its interval of 95 %, its p.
        kept, theirs, kept_p: mean forgetting of each at equal score, over the pairs where both reach it; None: there is
            no such pair.
    """

    mine: Line
    other: Line
    pairs: int
    score: float
    interval: tuple[float, float] | None
    score_p: float | None
    kept: float | None = None
    theirs: float | None = None
    kept_p: float | None = None

    @property
    def ratio(self) -> float | None:
        """Forgetting at equal score over theirs."""
        return self.kept / self.theirs if self.kept is not None and self.theirs and self.theirs > 0 else None


def fight(found: Fronts, lines: Iterable[Line]) -> list[Duel]:
    """Directions of each budget against every other arm of that budget or of none, in the order of the lines; p values
    after Holm."""
    lines = list(lines)
    fought = [
        _duel(found, mine, other)
        for mine in lines
        if mine[0] == OURS
        for other in lines
        if other != mine and other[1] in (None, mine[1])
    ]
    duels = [duel for duel in fought if duel is not None]
    scores, kept = (holm([getattr(duel, name) for duel in duels]) for name in ("score_p", "kept_p"))
    return [replace(duel, score_p=a, kept_p=b) for duel, a, b in zip(duels, scores, kept, strict=True)]


def _duel(found: Fronts, mine: Line, other: Line) -> Duel | None:
    pairs = [(found[mine][place], found[other][place]) for place in shared(found[mine], found[other])]
    scores = _test([(a.score_within(PRIMARY), b.score_within(PRIMARY)) for a, b in pairs])
    if scores is None:
        return None
    duel = Duel(mine, other, len(pairs), *scores)
    both = [(a, b) for a, b in (equal_score(x, y) for x, y in pairs) if a is not None and b is not None]
    both = [pair for pair in both if all(map(math.isfinite, pair))]
    kept = _test(both)
    if kept is not None:
        ours, theirs = (sum(pair[i] for pair in both) / len(both) for i in (0, 1))
        duel = replace(duel, kept=ours, theirs=theirs, kept_p=kept[2])
    return duel


def _test(pairs: list[tuple[float, float]]) -> tuple[float, tuple[float, float] | None, float | None] | None:
    """Mean difference, its interval and its p value; each pair is a cluster of its own."""
    if not pairs:
        return None
    first, second = ({i: {0: pair[side]} for i, pair in enumerate(pairs)} for side in (0, 1))
    clusters = differences(paired(first, second))
    return mean_difference(clusters), interval(clusters), permutation_p(first, second)
