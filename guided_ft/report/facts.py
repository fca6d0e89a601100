"""The numbers of a run as words, and the one table that the page and the text share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeGuard

from .record import RunRecord, Scores

_NOT_METRICS = {"examples"}


# -- numbers into words ------------------------------------------------------------------------------------------------
def is_percent(metric: str) -> bool:
    """Whether a metric is on a 0 to 100 scale, by its name. What a trainer logs (``eval_``) may go from 0 to 1."""
    return metric.endswith(("exact_match", "accuracy", "f1")) and not metric.startswith("eval_")


def is_share(metric: str) -> bool:
    """Whether a metric counts the examples that came out right, by its name.

    A macro F1 does not: it is a mean over classes, and a rare one can move it by more than its share of the examples.
    """
    return is_percent(metric) and not metric.endswith("f1")


def lower_is_better(metric: str) -> bool:
    """Whether a metric is a kind of loss, by the last word of its name."""
    return metric.split("_")[-1] in ("loss", "perplexity", "kl", "error")


def is_nats(metric: str) -> bool:
    """Whether a metric is in nats, by the last word of its name."""
    return metric.split("_")[-1] in ("loss", "kl")


def words(name: str) -> str:
    """``exact_match`` as ``exact match``."""
    return name.replace("_", " ")


def plain(value: float) -> str:
    """``52.0`` as ``52``, ``52.25`` as ``52.2``: for prose."""
    return f"{value:.1f}".removesuffix(".0")


def amount(value: object) -> str:
    """A number with about four significant digits; anything missing is a dash."""
    if not is_number(value):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:,.3f}" if 0.1 <= abs(value) < 1000 else f"{value:.3g}" if abs(value) < 1e-3 else f"{value:,.4g}"


def measured(metric: str, value: object) -> str:
    """A metric with its unit."""
    return f"{value:.1f} %" if is_percent(metric) and is_number(value) else amount(value)


def value_of(metric: str, value: float) -> str:
    """A metric for prose, without its unit."""
    return plain(value) if is_percent(metric) else amount(value)


def unit_of(metric: str) -> str:
    return " %" if is_percent(metric) else ""


def share(part: float, whole: float) -> str:
    """``0.098 %``: two or three digits, however small."""
    percent = 100 * part / whole
    if percent <= 0:
        return "0 %"
    digits = max(0, (2 if percent >= 1 else 1) - math.floor(math.log10(percent)))
    return f"{percent:.{digits}f} %"


def counted(number: float, kind: str) -> str:
    """``1 head``, ``34 neurons``."""
    return f"{number:,} {kind}" + "s" * (number != 1)


def gigabytes(value: object) -> str:
    """Bytes as ``3.01 GB`` (of 10^9 bytes)."""
    return f"{value / 1e9:.2f} GB" if is_number(value) else "-"


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a number (true and false are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def metrics(scores: Scores) -> list[str]:
    """Names of the metrics, in their order."""
    return [name for name in scores if name not in _NOT_METRICS]


# -- the one table -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Table:
    """Results as text: one column for each state of the model, one row for each number."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]


def results(run: RunRecord) -> Table:
    """Before, after and every control beside each other."""
    controls = run.control.values()
    states = [run.before, run.after, *(c.after for c in controls)]
    rows = [
        (words(name), [measured(name, state.get(name)) for state in states]) for name in _union(map(metrics, states))
    ]
    if run.retention:
        start = run.retention.before.loss
        texts = [run.retention.before, run.retention.after, *(c.retention for c in controls)]
        losses = [None if text is None else text.loss for text in texts]
        rises = ["-" if loss is None else signed(loss - start) for loss in losses[1:]]
        rows.append(("general loss (nats per token)", [amount(loss) for loss in losses]))
        rows.append(("rise of general loss", ["-", *rises]))
        rows.append(("KL from the base (nats per token)", [amount(text and text.kl) for text in texts]))
    sizes = [0, run.trainable, *(c.trainable for c in controls)]
    rows.append(("trainable parameters", [amount(n) for n in sizes]))
    return Table(["before", "after", *(f"{name} control" for name in run.control)], rows)


def signed(value: float) -> str:
    """A change with its sign; what rounds to nothing is +0.000, not -0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _union(lists: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))
