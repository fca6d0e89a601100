"""The verdict: one honest sentence, computed from the numbers of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .facts import Run, amount, is_number, is_percent, lower_is_better, metrics, plain, rise, share, signed, words

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


def verdict(run: Run) -> Verdict:
    """Judge a checked run by its first metric, beside the random control."""
    names = metrics(run["after"])
    metric = names[0] if names else None
    outcome, judgement = _judge(run, metric)
    failed = sum(not check.get("ok") for check in run["checks"])
    if failed:
        judgement += f"; {failed} of {len(run['checks'])} checks FAILED"
    return Verdict("; ".join(_facts(run, metric)), judgement, outcome)


def _facts(run: Run, metric: str | None) -> list[str]:
    facts = [f"trained {share(run['trainable'], run['total'])} of the parameters"]
    random = run["control"].get("random", {})
    if metric:
        before, after = run["before"].get(metric), run["after"][metric]
        start = f"{_value(metric, before)} -> " if is_number(before) else ""
        facts.append(f"{words(metric)} {start}{_value(metric, after)}{_unit(metric)}")
        control = (random.get("after") or {}).get(metric)
        if is_number(control):
            facts.append(f"random selection of {_size(run, random)}: {_value(metric, control)}{_unit(metric)}")
    kept = run["retention"]
    base = (kept.get("before") or {}).get("loss")
    moved = rise((kept.get("after") or {}).get("loss"), base)
    if moved is not None:
        other = rise((random.get("retention") or {}).get("loss"), base)
        facts.append(
            f"general loss {signed(moved)} nats" + (f" (random: {signed(other)})" if other is not None else "")
        )
    return facts


def _judge(run: Run, metric: str | None) -> tuple[str, str]:
    if metric is None:
        return "alone", "no metric was measured, so this run shows nothing about the task"
    before, after = run["before"].get(metric), run["after"][metric]
    sign = -1 if lower_is_better(metric) else 1
    improved = not is_number(before) or sign * (after - before) > 0
    prefix = "" if improved else f"training did not improve {words(metric)}; "
    random = run["control"].get("random", {})
    control = (random.get("after") or {}).get(metric)
    if not is_number(control):
        return "alone", prefix + "no random control was run, so this does not show that the map helped"
    same = f"a random choice of {_size(run, random)}"
    lead = sign * (after - control)
    gap = f"{plain(abs(lead))} points" if is_percent(metric) else amount(abs(float(lead)))
    if abs(lead) <= (TIE if is_percent(metric) else TIE / 100 * max(abs(after), abs(control))):
        return "tie", f"{prefix}the map did not beat {same} here (a tie)"
    if lead < 0:
        return "loss", f"{prefix}the map did not beat {same} here: random was better by {gap}"
    noise = _noise(run, metric)
    if noise and lead < noise:
        return "unclear", (
            f"{prefix}the map was ahead of {same} by {gap}, but {run['after']['examples']} examples cannot tell that "
            f"from chance (95 %: +-{noise:.0f} points)"
        )
    return "win", f"{prefix}the map beat {same} by {gap}"


def _noise(run: Run, metric: str) -> float | None:
    """Half the 95 % interval of the lead in points, if the metric is a share of counted examples.

    Adds one hit and one miss to both counts (Agresti and Caffo), so that 0 % and 100 % are not taken for certain.
    """
    count = run["after"].get("examples")
    if not is_percent(metric) or not is_number(count) or count < 1:
        return None
    shares = [
        (state[metric] / 100 * count + 1) / (count + 2) for state in (run["after"], run["control"]["random"]["after"])
    ]
    return 196 * math.sqrt(sum(max(0.0, p * (1 - p)) / (count + 2) for p in shares))


def _value(metric: str, value: float) -> str:
    return plain(value) if is_percent(metric) else amount(value)


def _unit(metric: str) -> str:
    return " %" if is_percent(metric) else ""


def _size(run: Run, control: dict) -> str:
    """Key/value groups can make two choices of one budget differ in size: then say so."""
    count = control.get("trainable")
    if not is_number(count) or abs(count - run["trainable"]) <= 0.05 * run["trainable"]:
        return "the same size"
    return f"the same budget ({count:,} parameters)"
