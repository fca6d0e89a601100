"""Read ``run.json`` with care, and turn its numbers into words and one table that the page and the text share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import GuidedError
from ..system.files import read_json

Run = dict[str, Any]

NUMBER = (int, float)
_NEEDED: dict[str, type] = {
    "name": str,
    "command": str,
    "model": str,
    "task": dict,
    "method": str,
    "mode": str,
    "trainable": int,
    "total": int,
    "before": dict,
    "after": dict,
    "seconds": dict,
}
_OPTIONAL: dict[str, type] = {
    "control": dict,
    "retention": dict,
    "selected": dict,
    "loss": list,
    "frozen": dict,
    "reload": dict,
    "checks": list,
    "versions": dict,
    "samples": list,
}
_NOT_METRICS = {"examples", "seconds"}


def read_run(folder: Path) -> Run:
    """Read and check ``run.json`` of a run folder."""
    path = folder / "run.json"
    if not path.is_file():
        raise GuidedError(f"{folder}: no run.json here (give the folder of a run)")
    return checked(read_json(path, "run"), str(path))


def checked(run: Run, where: str = "run.json") -> Run:
    """Return a copy whose keys are all there and of the right type; optional ones that are null become empty.

    Raises:
        GuidedError: if a key is missing, as in a run that was stopped, or holds something else.
    """
    if not isinstance(run, dict):
        raise GuidedError(f"{where}: not a run (a JSON object is needed)")
    for key, kind in _NEEDED.items():
        if run.get(key) is None:
            raise GuidedError(f"{where}: {key!r} is missing (the run has not finished; run it again to continue)")
        _expect(run[key], kind, key, where)
    if run["total"] < 1:
        raise GuidedError(f"{where}: 'total' is {run['total']} (a model has parameters)")
    whole = dict(run)
    for key, kind in _OPTIONAL.items():
        value = run.get(key)
        whole[key] = kind() if value is None else value
        _expect(whole[key], kind, key, where)
    for key in ("checks", "samples"):
        for item in whole[key]:
            _expect(item, dict, f"{key}[]", where)
    _expect_curve(whole["loss"], "loss", where)
    for name, one in whole["control"].items():
        _expect(one, dict, f"control.{name}", where)
        for key in ("after", "retention"):
            _expect(one.get(key) or {}, dict, f"control.{name}.{key}", where)
        _expect_curve(one.get("loss") or [], f"control.{name}.loss", where)
    for key in ("before", "after"):
        _expect(whole["retention"].get(key) or {}, dict, f"retention.{key}", where)
    return whole


def _expect(value: Any, kind: type, key: str, where: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        name = {dict: "an object", list: "a list", str: "text", int: "a whole number"}[kind]
        raise GuidedError(f"{where}: {key!r} is not {name}")


def _expect_curve(points: Any, key: str, where: str) -> None:
    _expect(points, list, key, where)
    for point in points:
        if not (isinstance(point, list | tuple) and len(point) == 2 and all(isinstance(x, NUMBER) for x in point)):
            raise GuidedError(f"{where}: {key!r} is not a list of [step, loss]")


# -- numbers into words ------------------------------------------------------------------------------------------------
def is_percent(metric: str) -> bool:
    """Whether a metric is on a 0 to 100 scale, by its name."""
    return metric in ("exact_match", "accuracy") or metric.endswith("_accuracy")


def lower_is_better(metric: str) -> bool:
    """Whether a metric is a kind of loss, by the last word of its name."""
    return metric.split("_")[-1] in ("loss", "perplexity", "kl", "error")


def words(name: str) -> str:
    """``exact_match`` as ``exact match``."""
    return name.replace("_", " ")


def plain(value: float) -> str:
    """``52.0`` as ``52``, ``52.25`` as ``52.2``: for prose."""
    return f"{value:.1f}".removesuffix(".0")


def amount(value: Any) -> str:
    """A number with about four significant digits; anything missing is a dash."""
    if not is_number(value):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return f"{value:,.3f}" if 0.1 <= abs(value) < 1000 else f"{value:.3g}" if abs(value) < 1e-3 else f"{value:,.4g}"


def measured(metric: str, value: Any) -> str:
    """A metric with its unit."""
    return f"{value:.1f} %" if is_percent(metric) and is_number(value) else amount(value)


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


def gigabytes(value: Any) -> str:
    """Bytes as ``3.01 GB`` (of 10^9 bytes)."""
    return f"{value / 1e9:.2f} GB" if is_number(value) else "-"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a number (true and false are not)."""
    return isinstance(value, NUMBER) and not isinstance(value, bool)


def metrics(results: dict[str, Any]) -> list[str]:
    """Names of the numeric metrics in ``before`` or ``after``, in their order."""
    return [name for name, value in results.items() if is_number(value) and name not in _NOT_METRICS]


# -- the one table -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Table:
    """Results as text: one column for each state of the model, one row for each number."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]


def results(run: Run) -> Table:
    """Before, after and every control beside each other."""
    controls = run["control"]
    states = [run["before"], run["after"], *(c.get("after") or {} for c in controls.values())]
    rows = [
        (words(name), [measured(name, state.get(name)) for state in states]) for name in _union(map(metrics, states))
    ]
    kept = run["retention"]
    if kept:
        texts = [kept.get("before") or {}, kept.get("after") or {}]
        texts += [c.get("retention") or {} for c in controls.values()]
        start = texts[0].get("loss")
        rises = ["-"] + [signed(r) if (r := rise(t.get("loss"), start)) is not None else "-" for t in texts[1:]]
        rows.append(("general loss (nats per token)", [amount(t.get("loss")) for t in texts]))
        rows.append(("rise of general loss", rises))
        rows.append(("KL from the base (nats per token)", [amount(t.get("kl")) for t in texts]))
    sizes = [0, run["trainable"], *(c.get("trainable") for c in controls.values())]
    rows.append(("trainable parameters", [amount(n) for n in sizes]))
    return Table(["before", "after", *(f"{name} control" for name in controls)], rows)


def signed(value: float) -> str:
    """A change with its sign; what rounds to nothing is +0.000, not -0.000."""
    return f"{round(value, 3) + 0.0:+.3f}"


def rise(after: Any, before: Any) -> float | None:
    """The difference, or None if one of the two was not measured."""
    return after - before if is_number(after) and is_number(before) else None


def _union(lists: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in lists for name in names))
