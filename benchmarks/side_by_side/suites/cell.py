"""``Cell``: one run of the benchmark, and the order in which they are due. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass

from guided_ft.system.files import Json

from ..arms.rule import rule
from ..rows.rates import sweep_of

SWEEP_SEED = 0
"""The learning rate is chosen on this seed, and the results come from others."""

WIDER = 2
"""Rates that a sweep may add to its list, while its best lies on an edge: the best of a list that ends too early is not
the arm's best."""


@dataclass(frozen=True)
class Cell:
    """What tells one run from another.

    Args:
        budget: percent of the model's parameters; None for arms that have none.
        draw: which random choice, for arms that draw; else 0.
        phase: ``sweep`` (of learning rates, on one seed), ``main`` (the best rate, other seeds) or ``front`` (every
            rate, on every seed).
    """

    suite: str
    model: str
    task: str
    arm: str
    budget: float | None
    lr: float
    seed: int
    draw: int
    data_size: int
    steps: int
    phase: str

    @classmethod
    def of(cls, row: Json) -> Cell:
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

    @property
    def spent(self) -> str | None:
        """The budget as ``select`` reads it: a row's percent becomes a share."""
        return None if self.budget is None else f"{self.budget}%"

    def to_dict(self) -> Json:
        return asdict(self)

    def __str__(self) -> str:
        budget = "" if self.budget is None else f" {self.budget:g}%"
        draw = f" draw {self.draw}" if self.draw else ""
        return f"{self.task} x{self.data_size} {self.arm}{budget} lr {self.lr:g} seed {self.seed}{draw}"


@dataclass(frozen=True)
class Campaign:
    """A part of a suite's grid: every combination of these, first the sweep, then the best rate on other seeds.

    Args:
        budgets: percent of the model's parameters.
        sizes: training examples.
        draws: of the arms that draw at random.
        rates: how many of an arm's learning rates to sweep; None: all, and beyond while the best is the last.
        front: run every rate of an arm on every seed, as its front of score against forgetting needs them all.
    """

    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    budgets: tuple[float, ...] = (0.3,)
    sizes: tuple[int, ...] = (300,)
    seeds: tuple[int, ...] = (1, 2, 3)
    draws: int = 3
    steps: int = 120
    rates: int | None = None
    front: bool = False


def due(
    suite: str,
    model: str,
    campaigns: Iterable[Campaign],
    arms: Json,
    rows: list[Json],
    refused: Collection[Cell] = (),
) -> Iterator[Cell]:
    """Yield the runs that are neither among ``rows`` yet nor ``refused``, the most wanted first.

    Rates are swept before anything is run at the best one; so what comes after a sweep is due when its last row is in.
    """
    done = {Cell.of(row): row for row in rows}
    seen: set[Cell] = set()
    for campaign in campaigns:
        for group in _groups(campaign, arms):
            for cell in _cells(suite, model, campaign, group, arms, done):
                if not (cell in seen or cell in done or cell in refused):
                    seen.add(cell)
                    yield cell


def _groups(campaign: Campaign, arms: Json) -> Iterator[tuple[str, int, str, float | None]]:
    seen = set()
    for budget in campaign.budgets:
        for size in campaign.sizes:
            for task in campaign.tasks:
                for arm in campaign.arms:
                    group = (task, size, arm, budget if arms[arm].budgeted else None)
                    if group not in seen:
                        seen.add(group)
                        yield group


def _cells(
    suite: str,
    model: str,
    campaign: Campaign,
    group: tuple[str, int, str, float | None],
    arms: Json,
    done: dict[Cell, Json],
) -> Iterator[Cell]:
    task, size, arm, budget = group

    def cell(rate: float, seed: int, draw: int, phase: str) -> Cell:
        return Cell(suite, model, task, arm, budget, rate, seed, draw, size, campaign.steps, phase)

    if campaign.front:
        for seed in campaign.seeds:
            for rate in _front_rates(arms[arm].rates, suite)[: campaign.rates]:
                for draw in range(campaign.draws if arms[arm].drawn else 1):
                    yield cell(rate, seed, draw, "front")
        return
    if arms[arm].rates is None:
        by_rule = rule(suite, task, arm, budget or 0.0)
        # The rate names a run, so it must not depend on the last bits.
        best = by_rule and float(f"{by_rule:.3g}")
    else:
        best = yield from _swept(
            lambda rate: cell(rate, SWEEP_SEED, 0, "sweep"), arms[arm].rates[suite], campaign.rates, done
        )
    if best is None:
        return
    for seed in campaign.seeds:
        for draw in range(campaign.draws if arms[arm].drawn else 1):
            yield cell(best, seed, draw, "main")


def _front_rates(rates: dict[str, tuple[float, ...]], suite: str) -> tuple[float, ...]:
    """The rates of a suite: for fronts an arm may have its own, else those of the model's other suite."""
    return rates.get(suite) or rates[scale(suite)]


def scale(suite: str) -> str:
    """The base model that a suite fine-tunes: ``testbed`` for ``testbed-fronts``."""
    return suite.removesuffix("-fronts")


def _swept(
    cell: Callable[[float], Cell], rates: tuple[float, ...], most: int | None, done: dict[Cell, dict[str, object]]
) -> Generator[Cell, None, float | None]:
    """Yield what is missing of a sweep, and return the best rate once nothing is.

    Args:
        most: how many of the rates to try; None: all, and beyond while the best is the last.
    """
    rates = rates[:most]
    longest = len(rates) + (WIDER if most is None else 0)
    while True:
        sweep = [cell(rate) for rate in rates]
        missing = [c for c in sweep if c not in done]
        yield from missing
        if missing:
            return None
        found = sweep_of(done[c] for c in sweep)
        assert found is not None
        if found.beyond is None or len(rates) == longest:
            return found.best
        rates = (*rates, found.beyond)
