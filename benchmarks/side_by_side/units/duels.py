"""Comparisons as tables: who won against whom, in words, and the counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..arms.labels import label, ordered
from ..page import words
from .compare import METRICS, Comparison

_COLUMNS = ("win", "tie (win uncorrected)", "tie", "tie (loss uncorrected)", "loss", "too few runs")


def sorted_by_arm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    arms = {arm: i for i, arm in enumerate(ordered(each.line.arm for each in comparisons))}
    controls = {arm: i for i, arm in enumerate(ordered(each.control for each in comparisons))}
    return sorted(
        comparisons,
        key=lambda each: (
            arms[each.line.arm],
            controls[each.control],
            each.line.order,
            (each.setting.data_size, each.setting.steps),
        ),
    )


def duels(comparisons: Sequence[Comparison]) -> str:
    """Comparisons in one setting and at one budget, one line each."""
    head = ["arm", "against", "metric", "verdict", "seeds", "pairs", "difference", "95 % interval"]
    made = [
        [
            *(label(each.line.arm), label(each.control), each.metric.label, each.verdict),
            *(str(each.seeds), str(each.pairs)),
            words.number(each.difference, each.metric.digits, True),
            words.between(each.interval, each.metric.digits),
            words.p_value(each.p),
            words.p_value(each.adjusted),
            words.number(each.effect, 2, True),
        ]
        for each in sorted_by_arm(comparisons)
    ]
    return words.table([*head, "p", "p (Holm)", "d_z"], made, texts=4)


def tally(comparisons: Sequence[Comparison]) -> str:
    """How often an arm won, tied and lost against a control, per metric."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    for each in sorted_by_arm(comparisons):
        place = (each.line.arm, each.control, each.metric.name)
        counts.setdefault(place, Counter())[each.verdict] += 1
    labels = {metric.name: metric.label for metric in METRICS}
    made = [
        [label(arm), label(control), labels[metric], *(str(found[verdict]) for verdict in _COLUMNS)]
        for (arm, control, metric), found in counts.items()
    ]
    return words.table(["arm", "against", "metric", *_COLUMNS], made, texts=3)
