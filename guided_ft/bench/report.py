"""``write_report``: RESULTS.md and its plots, from the raw rows and nothing else; the same rows give the same bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from . import figures, tables, words
from .. import artifact
from ..errors import GuidedError
from .compare import CONTROLS, METRICS, REFERENCES, Comparison, against, located
from .duels import duels, tally
from .groups import Groups, at_budget, group, headline
from .rows import Row, dedupe, read_rows

SUITES = ("testbed", "smollm2")

_INTRODUCTION = """\
# Benchmark results

Made by `guided-ft bench report` from the rows in [results](results/); nothing here is typed by hand.

How to read it:

- ± is the sample standard deviation over runs: seeds, and for a random arm draws of each seed too. `(2 of 3)` says in how
  many runs there was a value; without any it is a dash, and nothing is filled in.
- Learning rates are chosen on validation examples, in sweeps on one seed; scores are of the test split.
- Forgetting is the rise of the held-out loss on old or general data. *At full's score*: read off each run's curve, where it
  first reaches what full fine-tuning ends with on that seed, less 1 point. *At equal score* (comparisons): at the highest
  score that all runs of both arms reach on a seed.
- Time to full's score includes localization. Relative figures are to full fine-tuning's run of the same seed on the same machine.
- Comparisons are paired by seed; every random draw of a seed is a pair. The interval resamples whole seeds (10,000 times),
  widened for their small number. p counts relabellings of the runs within their seeds, all of them where they are few;
  Holm's correction is over the budgets and sizes of one arm, control, task and metric. d_z is the mean of the paired
  differences over their standard deviation.
- *win* and *loss* are p < 0.05 after correction; *too few runs*: that many runs could not have given p < 0.05, whatever came
  out.
"""


def write_report(
    results_folder: str | os.PathLike[str], out_folder: str | os.PathLike[str], rule: tables.Rule | None = None
) -> Path:
    """Write ``RESULTS.md`` and ``plots/bench_*.svg`` into ``out_folder``; returns the page.

    Args:
        results_folder: holds ``testbed.jsonl``, ``smollm2.jsonl``, or one of them.
        rule: the documented default learning rate for an arm and a budget (per cent), to show what it loses.

    Raises:
        GuidedError: there are no rows, or one of them is not complete. Then nothing is written.
    """
    folder, out = Path(results_folder), Path(out_folder)
    written = {suite: read_rows(folder / f"{suite}.jsonl") for suite in SUITES if (folder / f"{suite}.jsonl").exists()}
    written = {suite: rows for suite, rows in written.items() if rows}
    if not written:
        raise GuidedError(f"{folder}: no rows of {' or '.join(SUITES)} (run 'guided-ft bench testbed' first)")
    for suite, rows in written.items():
        strangers = sorted({row["suite"] for row in rows} - {suite})
        if strangers:
            raise GuidedError(f"{folder / suite}.jsonl: rows of suite {strangers[0]!r} (one file a suite)")
    plots = out / "plots"
    drawn: set[Path] = set()
    parts = [_INTRODUCTION]
    for suite, rows in written.items():
        parts += _suite(suite, dedupe(rows), len(rows), plots, drawn, rule)
    for old in sorted(plots.glob("bench_*.svg")):
        # A plot of rows that are gone would pass for a result.
        if old not in drawn:
            old.unlink()
    page = out / "RESULTS.md"
    artifact.write_text(page, "\n\n".join(part.rstrip("\n") for part in parts) + "\n")
    return page


def _suite(
    suite: str, rows: Sequence[Row], written: int, plots: Path, drawn: set[Path], rule: tables.Rule | None
) -> list[str]:
    groups = group(rows)
    if not groups:
        raise GuidedError(f"{suite}: only the frozen base was run (run an arm that trains)")
    controls = against(groups, located, CONTROLS)
    references = against(groups, lambda arm: arm == "guided", REFERENCES)
    parts = [f"## {suite}"]
    subjects = sorted({setting.subject for setting in groups})
    several = len({model for _, model, _ in subjects}) > 1
    for subject in subjects:
        _, model, task = subject
        name = f"bench_{suite}_{task}" + (f"_{re.sub(r'[^A-Za-z0-9]+', '-', model)}" if several else "")
        mine = [[each for each in found if each.setting.subject == subject] for found in (controls, references)]
        parts += _subject(groups, subject, mine[0], mine[1], plots / name, drawn)
    parts += ["### Learning rates", tables.learning_rates(rows, rule)]
    parts += ["### What stands behind it", tables.behind(rows, written)]
    return parts


def _subject(
    groups: Groups,
    subject: tuple[str, str, str],
    controls: Sequence[Comparison],
    references: Sequence[Comparison],
    stem: Path,
    drawn: set[Path],
) -> list[str]:
    _, model, task = subject
    setting, budget = headline(groups, subject)
    lines = groups[setting]
    shown = at_budget(lines, budget)
    where = tables.described(setting, budget)

    def figure(kind: str) -> tuple[Path, str]:
        path = stem.with_name(f"{stem.name}_{kind}.svg")
        drawn.add(path)
        return path, f"![{kind}](plots/{path.name})"

    title = f"{subject[0]}, {task}: {tables.described(setting, None)}"
    parts = [f"### {task} ({words.escape(model)})", f"{where}.", tables.quality(shown), tables.cost(shown)]
    path, link = figure("pareto")
    figures.pareto(lines, path, title)
    parts.append(link)
    path, link = figure("curves")
    figures.curves(shown, path, f"{title}; the end of training carries the arm's mark")
    parts.append(link)
    parts.append(words.folded("Every setting, arm and budget", tables.everything(groups, subject)))
    for heading, found in (
        ("Located against random and the other controls", controls),
        ("The default recipe against full fine-tuning and LoRA", references),
    ):
        if found:
            parts += [f"#### {heading}: {task}", tally(found)]
            parts += [
                words.folded(f"Every comparison: {metric.label}", duels(mine))
                for metric in METRICS
                if (mine := [each for each in found if each.metric.name == metric.name])
            ]
    random = [each for each in controls if each.control == "random" and each.metric.name != "forgetting"]
    for steps in sorted({each.setting.steps for each in random}):
        mine = [each for each in random if each.setting.steps == steps]
        if figures.has_regimes(mine):
            path, link = figure(f"regimes_{steps}")
            figures.regimes(mine, path, f"{subject[0]}, {task}, {steps:,} steps: located minus random")
            parts.append(link)
    return parts
