"""Fronts: what the rates of one arm make of score and forgetting, and what is read off them.

A front belongs to an arm, a task, a budget, a data size and a seed; its points are the arm's swept rates and the base,
which costs nothing to keep. Rates are picked by validation score and validation forgetting; what is told comes from the
test examples and from other corpora.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..rows.rows import Row

LIMITS = (0.03, 0.1, 0.3)
"""Nats that may be forgotten; the middle one is the primary figure's."""

PRIMARY = 0.1

REACHED = 0.9
"""Equal score: this share of the lowest among the arms' best validation scores, so that each of them reaches it."""


@dataclass(frozen=True, order=True)
class Place:
    """Where arms are compared."""

    task: str
    data_size: int
    seed: int


@dataclass(frozen=True)
class Front:
    """The runs of one arm at one place, by rate."""

    rows: tuple[Row, ...]
    base: float = 0.0

    @property
    def rewound(self) -> Front | None:
        """This front with shares of every run's change as further points; None if one run was not rewound."""
        if not all(row.get("rewound") for row in self.rows):
            return None
        return Front((*self.rows, *(row | point for row in self.rows for point in row["rewound"])), self.base)

    @property
    def best(self) -> Row:
        """The run with the highest validation score; ties go to the lower forgetting."""
        return max(self.rows, key=lambda row: (row["validation"], -_forgetting(row)))

    def within(self, limit: float) -> Row | None:
        """The run that a limit on forgetting picks; None if every rate forgets more."""
        fit = [row for row in self.rows if _forgetting(row) <= limit]
        return Front(tuple(fit)).best if fit else None

    def score_within(self, limit: float) -> float:
        """Test score at a forgetting of at most ``limit`` nats; where every rate forgets more, the base's."""
        row = self.within(limit)
        return self.base if row is None else float(row["score"])

    def forgetting_at(self, score: float) -> float | None:
        """The least forgetting of a run whose validation score is at least ``score``; None if none reaches it."""
        reached = [_forgetting(row) for row in self.rows if row["validation"] >= score]
        return min(reached, default=None)


def _forgetting(row: Row) -> float:
    """Infinite for a model that diverged."""
    return float("inf") if row["forgetting"] is None else float(row["forgetting"])


Line = tuple[str, float | None]
"""An arm, and its budget in per cent; None: it has none."""

Fronts = dict[Line, dict[Place, Front]]
"""By line, then by place. Random draws of one seed lie in one front of their own arm, draw 0."""


def fronts(rows: Iterable[Row], bases: Mapping[str, float] | None = None) -> Fronts:
    """Group the ``front`` rows. ``bases``: test score of the base by task; 0 where it is not told."""
    found: dict[Line, dict[Place, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["phase"] == "front" and row["arm"] != "base" and not row["draw"]:
            place = Place(row["task"], row["data_size"], row["seed"])
            found[row["arm"], row["budget"]][place].append(row)
    return {
        line: {place: Front(tuple(some), (bases or {}).get(place.task, 0.0)) for place, some in sorted(places.items())}
        for line, places in found.items()
    }


def shared(first: dict[Place, Front], second: dict[Place, Front]) -> list[Place]:
    """The places where both arms ran."""
    return sorted(first.keys() & second.keys())


def equal_score(first: Front, second: Front) -> tuple[float | None, float | None]:
    """Forgetting of each at the same validation score."""
    target = REACHED * min(first.best["validation"], second.best["validation"])
    return first.forgetting_at(target), second.forgetting_at(target)


def mean(fronts: Iterable[Front], value: Callable[[Front], float | None]) -> float | None:
    """The mean over places of what was measured; None if nothing was."""
    found = [v for v in map(value, fronts) if v is not None and v != float("inf")]
    return sum(found) / len(found) if found else None
