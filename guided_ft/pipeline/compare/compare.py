"""``compare``: the user's own model and data, trained in every way at several rates, and one table of what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ...errors import GuidedError
from ...recipe.recipe import Recipe
from ...report import write_report
from ...report.compared import told
from ...report.compared_page import write_comparison
from ...report.comparison import RECORD, Comparison
from ...report.facts import measured, signed, words
from ...system.files import write_json
from ...task.measures import here_only
from .. import run_folder
from ..hub import within_reach
from ..preflight import preflight
from .asked import Asked
from .base import NAME as BASE
from .base import Base, key
from .cell import Cell, cells
from .clock import Clock, minutes
from .found import comparison
from .worker import apart, read_request, work, write_request

Say = Callable[[str], None]


def compare(
    recipe: Recipe,
    arms: str | Sequence[str] | None = None,
    rates: str | Sequence[str | float] | None = None,
    seeds: str | Sequence[int] | None = None,
    *,
    quick: bool = False,
    trust_remote_code: bool = False,
    quiet: bool = False,
    isolated: bool = True,
) -> Comparison:
    """Train a recipe's model on its data in several ways, each at the same sweep of rates, and say what came out.

    Works in ``compare/`` (``compare-quick/``) inside the recipe's run folder. Each cell, an arm at a rate with a seed,
    is kept as it ends, so a comparison that was stopped goes on where it was, and one that is asked for more arms,
    rates or seeds does only these. The model before and the map are shared. A recipe's rows are parted once more: rates
    are picked on a validation part that nothing trains on, and scored on the test. Seeds order the examples, begin new
    adapters and draw the random choice; data and map are those of the recipe.

    Args:
        arms: names in ``ARMS``; None: all that the recipe allows.
        rates: factors on the rate that suits each arm (``x0.3``), or rates (``1e-4``).
        seeds: None: the recipe's.
        quick: 40 steps, three rates, 50 examples to test on, to try it out.
        isolated: a process of its own for each arm; else memory is not measured for each alone.

    Raises:
        GuidedError: for what cannot be read or done, and if the folder holds a comparison of another recipe.
    """
    asked = Asked.of(recipe, arms, rates, seeds, quick)
    preflight(recipe)
    unknown = here_only(recipe.evaluate.metric) if isolated else ()
    if unknown:
        raise GuidedError(
            f"compare: evaluate.metric: {unknown[0]} is known to this process only (pass isolated=False, or announce "
            "it as an entry point)"
        )
    asked = replace(asked, recipe=within_reach(recipe))
    say: Say = (lambda text: None) if quiet else (lambda text: print(text, flush=True))
    with run_folder.inside(recipe.output_dir, asked.home.name) as home:
        return _compare(asked, home, trust_remote_code, say, isolated)


def _compare(asked: Asked, home: Path, trust: bool, say: Say, isolated: bool) -> Comparison:
    began = time.perf_counter()
    _check_same(asked, home)
    write_request(asked, home)
    do = apart if isolated else work
    say(f"{asked.recipe.name}: {asked.recipe.model}: {', '.join(asked.arms)}, in {home}")
    base = Base.load(home)
    if base is None or base.key != key(asked) or not base.ready(asked.arms, home):
        do(home, BASE, trust, lambda event: say(f" {event.get('say', '')}"))
        base = Base.load(home)
        assert base is not None, "it has just been prepared"
    _check_arms(asked, base)
    missing = [cell for cell in cells(asked, base) if cell.result(home, base) is None]
    progress = _Progress(asked, base, home, say)
    progress.begin(missing)
    notes: dict[str, str] = {}
    for arm in asked.arms:
        if any(cell.arm == arm for cell in missing):
            try:
                do(home, arm, trust, progress.event)
            except MemoryError:
                notes[arm] = "out of memory"
                say(f"  {arm}: out of memory; its other cells are left out")
    found = comparison(asked, base, home, notes, isolated, time.perf_counter() - began)
    asked.recipe.save(home / "recipe.yaml")
    write_json(home / RECORD, found.model_dump(mode="json"))
    say(told(found))
    pages = [write_comparison(home)]
    if (asked.recipe.output_dir / "run.json").is_file():
        pages.append(write_report(asked.recipe.output_dir))
    say(f"report: {', '.join(map(str, pages))}")
    return found


def _check_same(asked: Asked, home: Path) -> None:
    """Raise GuidedError if results of another recipe would be lost."""
    before = read_request(home)
    if before is None or not any(home.glob("cells/*/result.json")):
        return
    old, new = before.recipe.to_dict(), asked.recipe.to_dict()
    changed = [f"{k}.{n}" for k in new if isinstance(new[k], dict) for n in new[k] if old[k].get(n) != new[k][n]]
    changed += [k for k in ("model", "dtype", "quantization", "seed") if old[k] != new[k]]
    if changed:
        raise GuidedError(
            f"output: {home} holds a comparison of other settings ({', '.join(changed)}; give another folder: "
            "output=..., or remove that one)"
        )


def _check_arms(asked: Asked, base: Base) -> None:
    """Raise GuidedError for an arm that was asked for by name and cannot be trained; the others are told in the end."""
    for arm in asked.arms:
        if asked.chosen and base.arms[arm].note:
            raise GuidedError(f"compare: arms: {arm}: {base.arms[arm].note}")
    if all(base.arms[arm].note for arm in asked.arms):
        raise GuidedError(f"compare: arms: none can be trained ({base.arms[asked.arms[0]].note})")


class _Progress:
    """What is told on the way: how long it will take, and each cell as it ends."""

    def __init__(self, asked: Asked, base: Base, home: Path, say: Say) -> None:
        self.base, self.home, self.say = base, home, say
        self.all = cells(asked, base)
        self.left: list[Cell] = []
        self.clock = Clock({arm: known.seconds for arm, known in base.arms.items()})

    def begin(self, missing: list[Cell]) -> None:
        self.left = list(missing)
        done = len(self.all) - len(missing)
        steps = self.base.steps
        kept = f", {done} of them done before" if done else ""
        if missing:
            time_left = minutes(self.clock.left(cell.arm for cell in missing))
            self.say(f" {len(self.all)} runs of {steps} steps{kept}: {time_left}, by a few measured steps")
        else:
            self.say(f" {len(self.all)} runs of {steps} steps, all done before")

    def event(self, event: dict) -> None:
        if "say" in event:
            self.say(event["say"])
        if "done" not in event:
            return
        cell = next(cell for cell in self.left if cell.name == event["done"])
        self.left.remove(cell)
        result = cell.result(self.home, self.base) or {}
        self.clock.note(cell.arm, result.get("seconds", 0.0))
        number = len(self.all) - len(self.left)
        rest = f"; {minutes(self.clock.left(c.arm for c in self.left))} left" if self.left else ""
        what = f"{cell.arm} at {cell.rate:g}, seed {cell.seed}"
        self.say(f"  {number}/{len(self.all)} {what}: {self._told(result)}  ({result.get('seconds', 0):.0f} s{rest})")

    def _told(self, result: dict) -> str:
        if result.get("failed"):
            return f"no result: {result['failed']}"
        told = [f"{words(k)} {measured(k, v)}" for k, v in result["validation"].items()]
        return f"{', '.join(told)} on validation; forgetting {signed(result['retention']['loss'] - self.base.loss)}"
