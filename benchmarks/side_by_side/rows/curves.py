"""What a run costs at a given score: forgetting and time, read off its curve where it first gets there.

The score along training is taken as its running best, so that a dip does not count as not having been there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from .rows import Row


def best_score(row: Row) -> float | None:
    """The highest score along training (0-100, on the curve's held-out part); None without a curve."""
    return max((float(point["score"]) for point in row["curve"]), default=None)


def forgetting_at(row: Row, target: float) -> float | None:
    """Rise of the held-out loss (nats) where the run first reaches ``target``, interpolated between two measurements.

    None if it never does, or if forgetting was not measured there.
    """
    return _at(row, [point["forgetting"] for point in row["curve"]], target)


def clock(row: Row) -> list[float]:
    """Seconds at each point of the curve, localization included.

    Of runs on a CPU the seconds of the processor: what else the machine did does not count. The curve's own seconds
    count from its first point, whether or not localization is in them.
    """
    curve = row["curve"]
    if all("cpu_seconds" in point for point in curve):
        return [point["cpu_seconds"] for point in curve]
    return [point["seconds"] - curve[0]["seconds"] + row["localize_seconds"] for point in curve]


def seconds_to(row: Row, target: float) -> float | None:
    """Seconds (see ``clock``) until the run first reaches ``target``; None if it never does."""
    return _at(row, clock(row), target)


def score_by(row: Row, seconds: float) -> float | None:
    """The best score that the run has had by then (see ``clock``), interpolated between two measurements.

    The last one, if the run was over sooner; the first, if it was not yet training.
    """
    times, best = clock(row), list(accumulate((float(point["score"]) for point in row["curve"]), max))
    if not times:
        return None
    later = next((i for i, time in enumerate(times) if time > seconds), None)
    if later is None:
        return best[-1]
    if later == 0:
        return best[0]
    share = (seconds - times[later - 1]) / (times[later] - times[later - 1])
    return best[later - 1] + share * (best[later] - best[later - 1])


def _at(row: Row, values: Sequence[float | None], target: float) -> float | None:
    scores = [float(point["score"]) for point in row["curve"]]
    here = next((i for i, score in enumerate(scores) if score >= target), None)
    if here is None:
        return None
    after = values[here]
    if here == 0 or after is None:
        return after
    before, reached = values[here - 1], max(scores[:here])
    if before is None:
        return None
    return before + (target - reached) / (scores[here] - reached) * (after - before)


def shared_target(rows: Sequence[Row], least_gain: float = 5.0) -> float | None:
    """The highest score that all of these runs reach, so that no run is left out and none is favoured.

    None if one has no curve, or if it is less than ``least_gain`` points above where training began: nothing was
    learned at which runs could be compared.
    """
    best = [best_score(row) for row in rows]
    reached = [score for score in best if score is not None]
    if len(reached) < len(best) or not reached:
        return None
    start = max(float(row["curve"][0]["score"]) for row in rows)
    return min(reached) if min(reached) >= start + least_gain else None
