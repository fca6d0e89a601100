"""``write_report``: RESULTS.md and its plots, from the raw rows and nothing else; the same rows give the same bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from .. import artifact
from ..errors import GuidedError
from . import figures, tables, words
from .compare import CONTROLS, METRICS, REFERENCES, Comparison, against, located
from .duels import duels, tally
from .groups import Groups, at_budget, group, headline
from .rows import dedupe, read_rows
from .sheets import comparisons_sheet, lines_sheet

SUITES = ("testbed", "smollm2")

_ONE_BY_ONE = ("random", *REFERENCES)
"""Comparisons with these are listed on the page; the others are counted there and listed in the CSV file."""

LINES, COMPARISONS = "bench_lines.csv", "bench_comparisons.csv"

_INTRODUCTION = """\
# Benchmark results

Made by `guided-ft bench report` from the rows in [results](results/); nothing here is typed by hand. Every arm, budget and
setting: [bench_lines.csv](bench_lines.csv); every comparison: [bench_comparisons.csv](bench_comparisons.csv).

How to read it:

- ± is the sample standard deviation over runs: seeds, and for a random arm the draws of each seed too. `(2 of 3)` says
  how many of the runs have a value; where none has one there is a dash, and nothing is filled in.
- Learning rates are chosen on validation examples, in sweeps on one seed; scores are of the test split.
- Forgetting is the rise of the held-out loss on old or general data. *At full's score*: read off each run's curve,
  where it first reaches what full fine-tuning ends with on that seed, less 1 point. *At equal score* (comparisons): at
  the highest score that all runs of both arms reach on a seed.
- Time to full's score includes localization. Relative figures are to full fine-tuning's run of the same seed on the
  same machine.
- Comparisons are paired by seed; every random draw of a seed is a pair. The interval resamples whole seeds (10,000
  times), widened for their small number. p counts relabellings of the runs within their seeds, all of them where they
  are few; Holm's correction is over the budgets, data sizes and steps of one arm, control, task and metric. d_z is the
  mean of the paired differences over their standard deviation.
- *win* and *loss* are p < 0.05 after correction. *too few runs*: so many could not have given p < 0.05, whatever came
  out.
"""


def write_report(
    results_folder: str | os.PathLike[str], out_folder: str | os.PathLike[str], rule: tables.Rule | None = None
) -> Path:
    """Write ``RESULTS.md``, two CSV files and ``plots/bench_*.svg`` into ``out_folder``; returns the page.

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
    runs = {suite: dedupe(rows) for suite, rows in written.items()}
    groups = {suite: group(rows) for suite, rows in runs.items()}
    for suite, found in groups.items():
        if not found:
            raise GuidedError(f"{folder / suite}.jsonl: only the frozen base was run (run an arm that trains)")
    plots = out / "plots"
    drawn: set[Path] = set()
    parts = [_INTRODUCTION]
    compared: list[Comparison] = []
    for suite, rows in runs.items():
        controls = against(groups[suite], located, CONTROLS)
        references = against(groups[suite], lambda arm: arm == "guided", REFERENCES)
        compared += [*controls, *references]
        parts += [f"## {suite}", *_subjects(suite, groups[suite], controls, references, plots, drawn)]
        parts += ["### Learning rates", tables.learning_rates(rows, rule)]
        parts += ["### What stands behind it", tables.behind(rows, len(written[suite]))]
    for old in sorted(plots.glob("bench_*.svg")):
        # A plot of rows that are gone would pass for a result.
        if old not in drawn:
            old.unlink()
    every = {setting: lines for found in groups.values() for setting, lines in found.items()}
    artifact.write_text(out / LINES, lines_sheet(every))
    artifact.write_text(out / COMPARISONS, comparisons_sheet(compared))
    page = out / "RESULTS.md"
    artifact.write_text(page, "\n\n".join(part.rstrip("\n") for part in parts) + "\n")
    return page


def _subjects(
    suite: str,
    groups: Groups,
    controls: Sequence[Comparison],
    references: Sequence[Comparison],
    plots: Path,
    drawn: set[Path],
) -> list[str]:
    parts = []
    subjects = sorted({setting.subject for setting in groups})
    several = len({model for _, model, _ in subjects}) > 1
    for subject in subjects:
        _, model, task = subject
        name = f"bench_{suite}_{task}" + (f"_{re.sub(r'[^A-Za-z0-9]+', '-', model)}" if several else "")
        mine = [[each for each in found if each.setting.subject == subject] for found in (controls, references)]
        parts += _subject(groups, subject, mine[0], mine[1], plots / name, drawn)
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
    figures.pareto(lines, budget, path, f"{title} {_only(budget)}")
    parts.append(link)
    path, link = figure("curves")
    figures.curves(shown, path, f"{title} {_only(budget)}; the end of training carries the arm's mark")
    parts.append(link)
    for heading, found in (
        ("Located against random and the other controls", controls),
        ("The default recipe against full fine-tuning and LoRA", references),
    ):
        if found:
            parts += [f"#### {heading}: {task}", tally(found)]
            parts += [
                words.folded(f"{metric.label[0].upper()}{metric.label[1:]}, one by one", duels(mine))
                for metric in METRICS
                if (mine := [e for e in found if e.metric.name == metric.name and e.control in _ONE_BY_ONE])
            ]
    random = [each for each in controls if each.control == "random" and each.metric.name != "forgetting"]
    for steps in sorted({each.setting.steps for each in random}):
        mine = [each for each in random if each.setting.steps == steps]
        if figures.has_regimes(mine):
            path, link = figure(f"regimes_{steps}")
            figures.regimes(mine, path, f"{subject[0]}, {task}, {steps:,} steps: located minus random")
            parts.append(link)
    return parts


def _only(budget: float | None) -> str:
    return "" if budget is None else f"(budget {words.brief(budget, ' %')})"
