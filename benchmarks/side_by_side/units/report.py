"""``write_report``: RESULTS.md and its plots, from the raw rows and nothing else; the same rows give the same bytes."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guided_ft.errors import GuidedError
from guided_ft.system import files
from guided_ft.system.files import Json

from ..arms import labels
from ..arms.rule import WITHIN, rule
from ..page import words
from ..rows.rows import IDENTITY, Row, dedupe, read_rows
from . import around, figures, rate_tables, regimes, tables
from .compare import REFERENCES, Comparison, against, against_random, located
from .duels import duels, tally
from .goals import goals
from .groups import Groups, Setting, at_budget, by_subject, group, headline, pooled
from .same_rate import same_rate
from .same_rate import table as same_rate_table
from .sheets import comparisons_sheet, lines_sheet

SUITES = ("testbed", "smollm2")

LINES, COMPARISONS = "bench_lines.csv", "bench_comparisons.csv"

_INTRODUCTION = f"""\
# Benchmark results

Made by `python -m benchmarks.side_by_side report` from the raw rows; nothing here is typed by hand.
Every arm, budget and setting: [{LINES}]({LINES}); every comparison, task by task too: [{COMPARISONS}]({COMPARISONS}).

How to read it:

- ± is the sample standard deviation over runs: seeds, and for a random arm the draws of each seed too. `(2 of 3)` says
  how many of the runs have a value; where none has one there is a dash, and nothing is filled in.
- Learning rates are chosen on validation examples, in sweeps on one seed, which go on while the best rate is the last;
  scores are of the test split. `(sweep)` marks an arm that was run no further: such runs are compared with nothing.
- Forgetting is the rise of the held-out loss on old or general data. *At full's score*: read off each run's curve,
  where it first reaches what full fine-tuning ends with on that seed, less 1 point. *At equal score* (comparisons): at
  the highest score that all runs of both arms reach on a seed.
- Time includes localization, and is the processor's where a run was on a CPU, so that other work on the machine does
  not count. Memory is what the run took beyond what the process held before. Relative figures are to full
  fine-tuning's run of the same seed on the same machine.
- A base model that is pre-trained where the benchmark runs comes out a little different on another processor. Runs are
  compared only where it had the same weights.
- *Default* slices located neurons of the upper 60 % of the layers, as the recipe `sums` does, but 0.3 % of the
  parameters where no other budget is named: what the package did by itself when these campaigns ran, before directions
  ([fronts](FRONTS.md)).
- *Score at the default's time*: the best score along the curve by the time at which the default recipe's run of the
  same seed is over, localization included: what the others have when they may train no longer than it.
- Comparisons are paired by seed, and over all tasks a seed of each task is one: of the tasks that both arms ran on, so
  few seeds are few tasks, and such a verdict is theirs alone. Every random draw of a seed is a pair.
  The interval resamples whole seeds (10,000 times), widened for their small number. p counts relabellings of the runs
  within their seeds, all of them where they are few; Holm's correction is over the budgets, data sizes and steps of one
  arm, control and metric that had enough runs. d_z is the mean of the paired differences over their standard deviation.
- *win* and *loss* are p < 0.05 after correction. *too few runs*: so many could not have given p < 0.05, whatever came
  out.
"""

_AT_ONE_RATE = """\
From the sweeps: one seed a setting (task, budget, data size and steps) and one draw, so there is no test. An arm that
gains at low rates and loses at high ones does what a larger rate would: choosing a rate for each arm takes it away.

Sweeps pick by validation score alone, and so like high rates. In the last two lines of a pair each arm has a rate of
its own: the one that its sweep picked, and the lowest whose validation score is within one standard error of that
one's."""

_AROUND = f"""\
What half and twice that rate would have done, in sweeps that were tried on both sides of it (between two rates: linear
in the logarithm): points of test score lost against the sweep's pick, on average; how many sweeps lose at most
{WITHIN:g}; and the median forgetting."""


@dataclass
class _Page:
    """The parts of the page, and the plots that were drawn for it, in a folder named as theirs will be."""

    plots: Path
    parts: list[str] = field(default_factory=list)
    drawn: list[Path] = field(default_factory=list)
    several_models: bool = False

    def figure(self, setting: Setting, kind: str) -> Path:
        """Where to draw a plot of a suite, model and task, which is shown here."""
        names = ["bench", setting.suite, *([setting.model] if self.several_models else []), setting.task, kind]
        path = self.plots / ("_".join(re.sub(r"[^A-Za-z0-9]+", "-", name) for name in names) + ".svg")
        self.drawn.append(path)
        self.parts.append(f"![{setting.task}: {kind}]({self.plots.name}/{path.name})")
        return path


def write_report(results_folder: str | os.PathLike[str], out_folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``RESULTS.md``, two CSV files and ``plots/bench_*.svg`` into ``out_folder``; returns them, the page first.

    Args:
        results_folder: holds ``testbed.jsonl``, ``smollm2.jsonl``, or one of them.

    Raises:
        GuidedError: there are no rows, or one of them is not complete. Then nothing is written.
    """
    with tempfile.TemporaryDirectory() as temporary:
        return _write_report(Path(results_folder), Path(out_folder), Path(temporary) / "plots")


def _write_report(folder: Path, out: Path, drawing: Path) -> list[Path]:
    written = {suite: _read(folder, suite) for suite in SUITES if (folder / f"{suite}.jsonl").exists()}
    # Of a suite that has only begun there is nothing to compare yet.
    written = {suite: rows for suite, rows in written.items() if any(row["arm"] != "base" for row in rows)}
    if not written:
        raise GuidedError(
            f"{folder}: no rows of {' or '.join(SUITES)} but, perhaps, of the base (run "
            "'python -m benchmarks.side_by_side testbed')"
        )
    page = _Page(drawing, [_INTRODUCTION])
    every: Groups = {}
    compared: list[Comparison] = []
    for suite, rows in written.items():
        runs = dedupe(rows)
        groups = group(runs)
        page.several_models = len({setting.model for setting in groups}) > 1
        several = len({setting.task for setting in groups}) > 1
        page.parts += [
            f"## {suite}",
            "### What the default recipe is meant to reach",
            goals(list(by_subject(groups).values())),
        ]
        for mine in by_subject(pooled(groups) if several else groups).values():
            found = _compared(mine)
            compared += found if several else []
            _comparisons(page, mine, found)
        at_one_rate = same_rate(runs)
        if at_one_rate:
            page.parts += ["### Located against random at the same learning rate", _AT_ONE_RATE]
            page.parts.append(same_rate_table(at_one_rate))
        for mine in by_subject(groups).values():
            _task(page, mine)
        compared += _compared(groups)
        every |= groups
        page.parts += ["### Learning rates", rate_tables.kept_by_the_rule(runs, rule)]
        around_it = around.table(runs, rule)
        page.parts += [_AROUND, around_it] if around_it else []
        page.parts.append(words.folded("The best of every sweep", rate_tables.learning_rates(runs, rule)))
        page.parts += ["### What stands behind it", tables.behind(runs, len(rows), _refused(folder, suite))]
    plots = {out / drawing.name / path.name: path.read_text(encoding="utf-8") for path in page.drawn}
    sheets = {out / LINES: lines_sheet(every), out / COMPARISONS: comparisons_sheet(compared)}
    whole = {out / "RESULTS.md": "\n\n".join(part.rstrip("\n") for part in page.parts) + "\n"}
    # Only now, all at once: a call that is stopped before leaves no new plots beside old tables.
    for path, text in (plots | sheets | whole).items():
        files.write_text(path, text)
    for old in (out / drawing.name).glob("bench_*.svg"):
        # A plot of rows that are gone would pass for a result.
        if old not in plots:
            old.unlink()
    return [*whole, *sheets, *plots]


def _read(folder: Path, suite: str) -> list[Row]:
    rows = read_rows(folder / f"{suite}.jsonl")
    strangers = sorted({row["suite"] for row in rows} - {suite})
    if strangers:
        raise GuidedError(f"{folder / suite}.jsonl: rows of suite {strangers[0]!r} (one file a suite)")
    return rows


def _refused(folder: Path, suite: str) -> list[Json]:
    """The runs that an arm refused, with the reason, as the last call of the runner left them."""
    path = folder / f"{suite}.refused.json"
    if not path.exists():
        return []
    cells = files.read_json(path, "refused").get("cells")
    if not isinstance(cells, list) or not all(map(_is_refusal, cells)):
        raise GuidedError(
            f"{path}: 'cells' is no list of runs with a reason (remove the file; the runner makes it again)"
        )
    return cells


def _is_refusal(cell: Any) -> bool:
    named = isinstance(cell, dict) and isinstance(cell.get("arm"), str) and isinstance(cell.get("reason"), str)
    return named and all(name in cell and not isinstance(cell[name], dict | list) for name in IDENTITY)


def _compared(groups: Groups) -> list[Comparison]:
    return [*against(groups, located, labels.CONTROLS), *against(groups, lambda arm: arm == "guided", REFERENCES)]


def _comparisons(page: _Page, groups: Groups, found: list[Comparison]) -> None:
    """Who won against whom: one by one where most was run, where locating helps, and the counts."""
    if not found:
        return
    setting, budget = headline(groups)
    here = [each for each in found if each.setting == setting and each.line.budget in (None, budget)]
    page.parts.append(f"### Comparisons: {setting.task} ({words.escape(setting.model)})")
    for heading, mine in (
        ("Located against random", [each for each in here if against_random(each)]),
        ("The default recipe against full fine-tuning and LoRA", [e for e in here if e.control in REFERENCES]),
    ):
        if mine:
            page.parts += [f"#### {heading}", f"{tables.described(setting, budget)}.", duels(mine)]
    mapped = [each for each in found if against_random(each)]
    if regimes.worth_drawing(mapped):
        regimes.draw(mapped, page.figure(setting, "regimes"), f"{setting.suite}, {setting.task}: located minus random")
    page.parts.append(words.folded("Wins, ties and losses over all budgets, data sizes and steps", tally(found)))


def _task(page: _Page, groups: Groups) -> None:
    """Quality and cost of the arms on one task, where most were run."""
    setting, budget = headline(groups)
    lines = groups[setting]
    shown = at_budget(lines, budget)
    page.parts += [f"### {setting.task} ({words.escape(setting.model)})", f"{tables.described(setting, budget)}."]
    page.parts += [tables.quality(shown), tables.cost(shown, budget)]
    title = f"{setting.suite}, {setting.task}: {tables.described(setting, None)}"
    title += "" if budget is None else f" (budget {words.brief(budget, ' %')})"
    figures.pareto(lines, budget, page.figure(setting, "pareto"), title)
    ends = f"{title}; the end of training carries the arm's mark"
    figures.curves(shown, page.figure(setting, "curves"), ends)
