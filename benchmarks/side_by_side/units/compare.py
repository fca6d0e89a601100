"""Two arms at the same budget, data size and steps: how far apart, how sure, and the verdict in a word."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..arms.labels import PLACED, arm_of, family
from ..rows import statistics
from ..rows.curves import forgetting_at, shared_target
from ..rows.rows import Row
from .groups import Groups, Line, Runs, Setting

REFERENCES = ("full", "lora", "lora:qv", "rslora", "dora")

ALPHA = 0.05

SeedDraws = dict[int, dict[int, float]]


@dataclass(frozen=True)
class Metric:
    """What is compared.

    Args:
        name: short, for files and keys.
        label: for people, with the unit.
        better: 1 if more is better, -1 if less is.
        digits: decimals that mean something.
        values: the values of both arms by seed and draw.
    """

    name: str
    label: str
    better: int
    digits: int
    values: Callable[[Runs, Runs], tuple[SeedDraws, SeedDraws]]


def _field(name: str) -> Callable[[Runs, Runs], tuple[SeedDraws, SeedDraws]]:
    return lambda first, second: (first.draws(lambda row: row[name]), second.draws(lambda row: row[name]))


def _at_equal_score(first: Runs, second: Runs) -> tuple[SeedDraws, SeedDraws]:
    """Forgetting at the highest score that all runs of both arms reach on a seed (see ``shared_target``)."""
    shared = sorted({*first.seeds} & {*second.seeds})
    targets = {seed: shared_target([*first.at_seed(seed), *second.at_seed(seed)]) for seed in shared}

    def value(row: Row) -> float | None:
        target = targets.get(row["seed"])
        return None if target is None else forgetting_at(row, target)

    return first.draws(value), second.draws(value)


METRICS = (
    Metric("score", "score (points)", 1, 1, _field("score")),
    Metric("forgetting", "forgetting at the end (nats)", -1, 4, _field("forgetting")),
    Metric("forgetting_at_equal_score", "forgetting at equal score (nats)", -1, 4, _at_equal_score),
)


@dataclass(frozen=True)
class Comparison:
    """``arm`` minus ``control``; intervals and p values are None where there are too few runs for any.

    ``least`` is the smallest p that so many runs can give. ``adjusted`` is p after Holm's correction over its family:
    the budgets, data sizes and steps of one arm, control, task and metric whose ``least`` is small enough.
    """

    setting: Setting
    line: Line
    control: str
    metric: Metric
    seeds: int
    pairs: int
    difference: float
    interval: tuple[float, float] | None
    p: float | None
    adjusted: float | None
    least: float
    effect: float | None

    @property
    def verdict(self) -> str:
        """Win, tie or loss for the arm; a tie that only the correction made one says so."""
        if self.p is None or self.adjusted is None:
            return "too few runs"
        word = "win" if self.difference * self.metric.better > 0 else "loss"
        if self.adjusted < ALPHA:
            return word
        return f"tie ({word} uncorrected)" if self.p < ALPHA else "tie"


def compare(setting: Setting, line: Line, runs: Runs, control: str, others: Runs, metric: Metric) -> Comparison | None:
    """Compare two arms on a metric; None if no seed has a value of both."""
    runs, others = runs.beside(others, "weights"), others.beside(runs, "weights")
    first, second = metric.values(runs, others)
    pairs = statistics.paired(first, second)
    if not pairs:
        return None
    # Both tests see the same runs: those that have a partner.
    first, second = ({seed: values[seed] for seed in pairs} for values in (first, second))
    clusters = statistics.differences(pairs)
    p = statistics.permutation_p(first, second)
    return Comparison(
        setting,
        line,
        control,
        metric,
        len(clusters),
        sum(map(len, clusters)),
        statistics.mean_difference(clusters),
        statistics.interval(clusters),
        p,
        p,
        statistics.least_p(first, second) or 1.0,
        statistics.effect_size(clusters),
    )


def against(groups: Groups, is_arm: Callable[[str], bool], controls: Iterable[str]) -> list[Comparison]:
    """All comparisons of the arms with these controls, of the same budget or without one, corrected by family.

    An arm that was given its rate is held only against one that was given its own, not against one that swept it.
    """
    controls = tuple(controls)
    found = []
    for setting, lines in groups.items():
        for line, runs in lines.items():
            if runs.phase != "main" or not is_arm(line.arm):
                continue
            for control in controls:
                if arm_of(control).is_given_its_rate != arm_of(line.arm).is_given_its_rate:
                    continue
                others = lines.get(Line(control, line.budget)) or lines.get(Line(control, None))
                if others is None or others.phase != "main":
                    continue
                made = (compare(setting, line, runs, control, others, metric) for metric in METRICS)
                found += [comparison for comparison in made if comparison is not None]
    return _corrected(found)


def located(arm: str) -> bool:
    """Whether an arm's parts were found by a map: the guided arms, the default among them."""
    return arm_of(arm).is_located


def against_random(comparison: Comparison) -> bool:
    """Whether the control is a random choice that the arm can be held against: of all layers, or placed as it is.

    One that trains its choice another way (low rank, LoRA) would credit the map with what that way does. What loses
    against any random choice is not passed over.
    """
    arm, control = comparison.line.arm, comparison.control
    lost = comparison.verdict == "loss" and family(control) == "random"
    same = arm_of(arm).way.form == arm_of(control).way.form
    return lost or (control in ("random", PLACED.get(arm)) and same)


def _corrected(found: list[Comparison]) -> list[Comparison]:
    families: dict[tuple[object, ...], list[int]] = {}
    for i, each in enumerate(found):
        family = (*each.setting.subject, each.line.arm, each.control, each.metric.name)
        families.setdefault(family, []).append(i)
    corrected = list(found)
    for members in families.values():
        # What could not have come out significant does not count: that is known before any result is.
        able = [found[i].p if found[i].least < ALPHA else None for i in members]
        for i, adjusted in zip(members, statistics.holm(able), strict=True):
            corrected[i] = replace(found[i], adjusted=adjusted)
    return corrected
