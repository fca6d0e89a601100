"""The story of a run as plain text, for the terminal."""

from __future__ import annotations

import textwrap

from .facts import amount, gigabytes, results
from .record import RunRecord
from .verdict import verdict

_WIDTH = 110
_LABEL = 10


def story(run: RunRecord) -> str:
    """Tell a finished run in about fifteen lines: verdict, table, checks, seconds, the command."""
    judged = verdict(run)
    lines = [clean(run.name), *_wrapped("  ", judged.facts), *_wrapped("  ", judged.judgement), ""]
    table = results(run)
    first = max(len(label) for label, _ in table.rows)
    columns = [clean(name) for name in table.columns]
    widths = [max(len(name), *(len(row[i]) for _, row in table.rows)) for i, name in enumerate(columns)]
    for label, cells in [("", columns), *table.rows]:
        line = f"  {clean(label):<{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths, strict=True))
        lines.append(line.rstrip())
    lines.append("")
    for i, check in enumerate(run.checks):
        mark = "ok    " if check.ok else "FAILED"
        lines += _labelled("" if i else "checks", f"{mark} {check.name}{': ' if check.detail else ''}{check.detail}")
    times = [f"{name} {value:.1f}" for name, value in run.seconds.items()]
    lines += _labelled("seconds", "  ".join([*times, f"total {sum(run.seconds.values()):.1f}"]))
    if run.peak_bytes is not None:
        lines += _labelled("memory", f"{gigabytes(run.peak_bytes)} at most")
    lines += _labelled("size", f"{amount(run.trainable)} of {amount(run.total)} parameters trained")
    # Never broken, so that they can be copied.
    for label, copied in (("repeat", [run.command]), ("use it", run.use)):
        lines += ["  " + ("" if i else label).ljust(_LABEL) + clean(line) for i, line in enumerate(copied)]
    return "\n".join(lines)


def _labelled(label: str, text: str) -> list[str]:
    return _wrapped("  " + label.ljust(_LABEL), text)


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(clean(text), _WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def clean(text: str) -> str:
    """Names and answers come from outside: none may move the cursor or colour the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
