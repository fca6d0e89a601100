"""The verdict: one honest sentence, computed from the numbers of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .facts import (
    amount,
    is_percent,
    is_share,
    lower_is_better,
    metrics,
    plain,
    share,
    signed,
    unit_of,
    value_of,
    words,
)
from .record import Control, RunRecord

TIE = 2.0
"""Points (or percent of the larger value) within which two results count as equal."""


@dataclass(frozen=True)
class Verdict:
    """What was done, and what it shows.

    Args:
        facts: the numbers, without judgement.
        judgement: what may be said about the map: never more than the numbers carry.
        outcome: ``win``, ``unclear``, ``tie``, ``loss`` or ``alone`` (no control to compare with).
    """

    facts: str
    judgement: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.facts}: {self.judgement}"


def verdict(run: RunRecord) -> Verdict:
    """Judge a run by its first metric, beside the random control."""
    names = metrics(run.after)
    metric = names[0] if names else None
    outcome, judgement = _judge(run, metric)
    failed = sum(not check.ok for check in run.checks)
    if failed:
        judgement += f"; {failed} of {len(run.checks)} checks FAILED"
    return Verdict("; ".join(_facts(run, metric)), judgement, outcome)


def _facts(run: RunRecord, metric: str | None) -> list[str]:
    facts = [f"trained {share(run.trainable, run.total)} of the parameters"]
    random = run.random
    if metric:
        before, after = run.before.get(metric), run.after[metric]
        start = f"{value_of(metric, before)} -> " if before is not None else ""
        facts.append(f"{words(metric)} {start}{value_of(metric, after)}{unit_of(metric)}")
        if random and metric in random.after:
            control = f"{value_of(metric, random.after[metric])}{unit_of(metric)}"
            facts.append(f"random selection of {_size(run, random)}: {control}")
    if run.retention:
        base = run.retention.before.loss
        moved = f"general loss {signed(run.retention.after.loss - base)} nats"
        if random and random.retention:
            moved += f" (random: {signed(random.retention.loss - base)})"
        facts.append(moved)
    return facts


def _judge(run: RunRecord, metric: str | None) -> tuple[str, str]:
    if metric is None:
        return "alone", "no metric was measured, so this run shows nothing about the task"
    before, after = run.before.get(metric), run.after[metric]
    sign = -1 if lower_is_better(metric) else 1
    improved = before is None or sign * (after - before) > 0
    prefix = "" if improved else f"training did not improve {words(metric)}; "
    random = run.random
    if random is None or metric not in random.after:
        return "alone", prefix + "no random control was run, so this does not show that the map helped"
    control = random.after[metric]
    same = f"a random choice of {_size(run, random)}"
    lead = sign * (after - control)
    gap = f"{plain(abs(lead))} points" if is_percent(metric) else amount(abs(float(lead)))
    if abs(lead) <= (TIE if is_percent(metric) else TIE / 100 * max(abs(after), abs(control))):
        return "tie", f"{prefix}the map did not beat {same} here (a tie)"
    if lead < 0:
        return "loss", f"{prefix}the map did not beat {same} here: random was better by {gap}"
    ahead = f"{prefix}the map was ahead of {same} by {gap}"
    noise = _noise(run, random, metric)
    if noise is None:
        return "unclear", f"{ahead}, but no interval is known that tells that from chance"
    if lead < noise:
        return "unclear", (
            f"{ahead}, but {run.after['examples']} examples cannot tell that from chance (95 %: +-{noise:.0f} points)"
        )
    return "win", f"{prefix}the map beat {same} by {gap}"


def _noise(run: RunRecord, random: Control, metric: str) -> float | None:
    """Half the 95 % interval of the lead in points, if the metric is a share of counted examples."""
    count = run.after.get("examples", 0)
    return chance(run.after[metric], random.after[metric], count) if is_share(metric) and count >= 1 else None


def chance(one: float, other: float, count: float) -> float:
    """Half the 95 % interval of the difference of two shares (0 to 100) of so many examples each, in points.

    Adds one hit and one miss to both counts (Agresti and Caffo 2000), so that 0 % and 100 % are not taken for certain.
    """
    shares = [(percent / 100 * count + 1) / (count + 2) for percent in (one, other)]
    return 196 * math.sqrt(sum(max(0.0, p * (1 - p)) / (count + 2) for p in shares))


def _size(run: RunRecord, control: Control) -> str:
    """Key/value groups can make two choices of one budget differ in size: then say so."""
    if abs(control.trainable - run.trainable) <= 0.05 * run.trainable:
        return "the same size"
    return f"the same budget ({control.trainable:,} parameters)"
