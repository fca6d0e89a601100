"""What training along directions is meant to reach, and whether the rows show it: made from the runs, never typed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..page import words
from .duels import OURS, Duel
from .front import PRIMARY, Fronts, Line, shared

SURE = 0.05

FULL: Line = ("full", None)


@dataclass(frozen=True)
class Finding:
    """What was seen, in words, and whether it is enough."""

    seen: str
    reached: bool


@dataclass(frozen=True)
class Field:
    """All that is known of directions at one budget."""

    found: Fronts
    duels: Sequence[Duel]
    mine: Line

    def against(self, arm: str) -> Duel | None:
        """The duel with another arm of the same budget."""
        return next((duel for duel in self.duels if duel.mine == self.mine and duel.other[0] == arm), None)


Measure = Callable[[Field], Finding | None]


def _forgets_less(arm: str, share: float) -> Measure:
    def measure(field: Field) -> Finding | None:
        duel = field.against(arm)
        if duel is None or duel.ratio is None:
            return None
        sure = duel.kept_p is not None and duel.kept_p < SURE
        return Finding(f"{words.brief(duel.ratio, 'x')}, p {words.p_value(duel.kept_p)}", duel.ratio <= share and sure)

    return measure


def _scores_more(arm: str, points: float) -> Measure:
    def measure(field: Field) -> Finding | None:
        duel = field.against(arm)
        return None if duel is None else Finding(words.number(duel.score, 1, True), duel.score >= points)

    return measure


def _on_every_task(field: Field) -> Finding | None:
    """The task on which it does worst against full fine-tuning."""
    mine, full = field.found[field.mine], field.found.get(FULL, {})
    by_task: dict[str, list[float]] = {}
    for place in shared(mine, full):
        rise = mine[place].score_within(PRIMARY) - full[place].score_within(PRIMARY)
        by_task.setdefault(place.task, []).append(rise)
    if not by_task:
        return None
    means = {task: sum(rises) / len(rises) for task, rises in by_task.items()}
    worst = min(means, key=means.__getitem__)
    return Finding(f"{words.number(means[worst], 1, True)} on {words.escape(worst)}", means[worst] >= 0)


def _best(field: Field) -> Finding | None:
    """The highest score, and what is forgotten there."""
    mine, full = field.found[field.mine], field.found.get(FULL, {})
    both = [(mine[place].best, full[place].best) for place in shared(mine, full)]
    both = [pair for pair in both if all(row["forgetting"] is not None for row in pair)]
    if not both:
        return None
    (score, kept), (theirs, lost) = (
        [sum(float(pair[i][name]) for pair in both) / len(both) for name in ("score", "forgetting")] for i in (0, 1)
    )
    seen = f"{words.number(score - theirs, 1, True)}, {words.number(kept, 3, True)} for {words.number(lost, 3, True)}"
    return Finding(seen, score >= theirs - 2 and kept <= lost / 3)


GOALS: dict[str, Measure] = {
    "forgetting at equal score at most a fifth of random directions', p below 0.05": _forgets_less(
        "directions:random", 0.2
    ),
    "forgetting at equal score at most a fifth of LoRA's, p below 0.05": _forgets_less("lora", 0.2),
    f"score at {PRIMARY:g} at least 5 points above LoRA's": _scores_more("lora", 5),
    f"score at {PRIMARY:g} not below full fine-tuning's on any task": _on_every_task,
    "best score within 2 points of full fine-tuning's, at a third of its forgetting": _best,
}


def goals(found: Fronts, duels: Sequence[Duel]) -> str:
    """One line a goal: what each budget shows, and whether that is enough; empty where directions did not run."""
    mine = sorted((line for line in found if line[0] == OURS), key=lambda line: line[1] or 0.0)
    if not mine:
        return ""
    lines = [[asked, *(_cell(measure(Field(found, duels, line))) for line in mine)] for asked, measure in GOALS.items()]
    return words.table(["goal", *(f"{budget:g} %" for _, budget in mine)], lines)


def _cell(finding: Finding | None) -> str:
    return "-" if finding is None else f"{'reached' if finding.reached else 'missed'}: {finding.seen}"
