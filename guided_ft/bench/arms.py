"""The arms: every way of training that is compared, by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..budget import select
from ..callback import GuidedCallback
from ..data import Row
from ..plan import Plan
from ..scorers.localize import localize
from ..selection import Selection
from . import peers
from .cell import Cell
from .suite import Lab


@dataclass
class Trial:
    """A run that is about to be made ready: the cell, a fresh base model, and its data."""

    lab: Lab
    cell: Cell
    model: Any
    rows: list[Row]

    def task(self, problem: str | None = None) -> Any:
        """The first training examples, to localize with; or those of another problem."""
        suite = self.lab.suite
        rows = self.rows
        if problem is not None:
            rows = suite.problems[problem].rows(self.cell.data_size, self.cell.seed)[0]
        return self.lab.task(rows[: suite.examples], problem or self.cell.task)

    @property
    def parameters(self) -> int:
        """What the budget buys."""
        assert self.cell.budget is not None
        return int(self.cell.budget / 100 * sum(p.numel() for p in self.model.parameters()))


@dataclass
class Setup:
    """What the trainer is handed.

    Args:
        guided: its callback trims the step to the labelled tokens itself.
        optimizer: makes one from the model and the rate; None: the trainer's AdamW.
        localize_seconds, localize_cpu: what finding the parts took.
    """

    model: Any
    callbacks: list[Any] = field(default_factory=list)
    guided: GuidedCallback | None = None
    optimizer: Callable[[Any, float], Any] | None = None
    localize_seconds: float = 0.0
    localize_cpu: float = 0.0


Prepare = Callable[[Trial], Setup]
Rates = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Args:
        prepare: makes a fresh model ready.
        rates: the learning rates of its sweep, by suite.
        help: one line.
        budgeted: it trains as many parameters as the cell's budget says.
        drawn: it draws at random, so it is run with several draws.
    """

    prepare: Prepare
    rates: Rates
    help: str
    budgeted: bool = True
    drawn: bool = False


def _guided(
    method: str = "gradient",
    retain: str | None = "self",
    strategy: str = "top",
    *,
    mode: str = "slice",
    kinds: tuple[str, ...] = ("head", "neuron"),
    first: float = 0.0,
    budget: str | None = None,
    within: float | None = None,
    other_task: bool = False,
    needs_map: bool = True,
    **options: Any,
) -> Prepare:
    """Localize, select, and train only that.

    Args:
        first: leave this share of the layers, from the bottom, alone.
        budget: one of its own, instead of the cell's.
        within: choose this percentage of the model, and train it as products of the rank that the cell's budget buys.
        other_task: take the map of the suite's next problem.
        needs_map: False for choices that do not look at the scores, which then cost nothing.
    """

    def prepare(trial: Trial) -> Setup:
        cell = trial.cell
        problems = list(trial.lab.suite.problems)
        other = problems[(problems.index(cell.task) + 1) % len(problems)] if other_task else None
        scorer, kept, extra = (method, retain, options) if needs_map else ("random", None, {})
        scores, before = _map(trial, other, scorer, kept, kinds, extra)
        wall, cpu = time.perf_counter(), time.process_time()

        def chosen(size: str | int) -> Selection:
            return select(
                scores,
                size,
                kinds,
                strategy,
                seed=1000 * cell.seed + cell.draw,
                whole=mode == "freeze",
                first_layer=round(first * scores.anatomy.num_layers),
            )

        if within is None:
            plan = Plan(chosen(budget or f"{cell.budget}%"), mode)
        else:
            plan = _low_rank(chosen, int(within / 100 * scores.anatomy.num_parameters), trial.parameters)
        callback = GuidedCallback(plan, prefix_cache="auto")
        spent = before[0] + time.perf_counter() - wall, before[1] + time.process_time() - cpu
        return Setup(trial.model, guided=callback, localize_seconds=spent[0], localize_cpu=spent[1])

    return prepare


def _low_rank(chosen: Callable[[int], Selection], size: int, parameters: int) -> Plan:
    """The highest rank at which a selection of ``size`` trains at most so many parameters; if even rank 1 trains more,
    rank 1 of the largest smaller selection that does not."""
    selection = chosen(size)
    one = Plan(selection, "slice", 1).num_parameters
    if one <= parameters:
        return max(
            (Plan(selection, "slice", rank) for rank in range(1, parameters // one + 1)),
            key=lambda plan: (plan.num_parameters <= parameters, plan.num_parameters),
        )
    low, high = parameters, size
    while high - low > size / 1000:
        middle = (low + high) // 2
        fits = Plan(chosen(middle), "slice", 1).num_parameters <= parameters
        low, high = (middle, high) if fits else (low, middle)
    return Plan(chosen(low), "slice", 1)


def _map(
    trial: Trial, other: str | None, scorer: str, retain: str | None, kinds: tuple[str, ...], options: dict[str, Any]
) -> tuple[Any, tuple[float, float]]:
    """Return the map and the wall and CPU seconds that it took, when it was first wanted."""
    cell = trial.cell
    key = cell.task, cell.seed, cell.data_size, other, scorer, retain, kinds, tuple(sorted(options.items()))
    if key not in trial.lab.maps:
        wall, cpu = time.perf_counter(), time.process_time()
        task = trial.task(other)
        scores = localize(trial.model, task, scorer, retain, kinds, seed=cell.seed, progress=False, **options)
        trial.lab.maps[key] = scores, (time.perf_counter() - wall, time.process_time() - cpu)
    return trial.lab.maps[key]


def _top_layers(trial: Trial) -> Setup:
    from ..anatomy import Anatomy

    anatomy = Anatomy.of(trial.model)
    last = range(anatomy.num_layers - 2, anatomy.num_layers)
    selection = Selection.parse(" ".join(f"L{i}" for i in last), anatomy)
    return Setup(trial.model, guided=GuidedCallback(Plan(selection, "freeze"), prefix_cache="auto"))


def _peer(change: Callable[..., Any]) -> Prepare:
    """An adapter of PEFT: ``change(model, parameters, seed) -> model``."""

    def prepare(trial: Trial) -> Setup:
        parameters = trial.parameters if trial.cell.budget is not None else 0
        return Setup(change(trial.model, parameters, trial.cell.seed))

    return prepare


def _with_callback(make: Callable[[Any, int], Any]) -> Prepare:
    def prepare(trial: Trial) -> Setup:
        return Setup(trial.model, [make(trial.model, trial.cell.seed)])

    return prepare


_WHOLE: Rates = {"testbed": (1e-4, 3e-4, 1e-3, 3e-3), "smollm2": (1e-5, 3e-5, 1e-4, 3e-4)}
_PARTS: Rates = {"testbed": (1e-3, 3e-3, 1e-2, 3e-2), "smollm2": (1e-3, 3e-3, 1e-2, 3e-2)}
_LORA: Rates = {"testbed": (1e-3, 3e-3, 1e-2, 3e-2), "smollm2": (3e-4, 1e-3, 3e-3, 1e-2)}
_VECTOR: Rates = {"testbed": (3e-3, 1e-2, 3e-2, 1e-1), "smollm2": (3e-3, 1e-2, 3e-2, 1e-1)}

ARMS: dict[str, Arm] = {
    # whole models
    "base": Arm(lambda trial: Setup(trial.model), {"testbed": (0.0,), "smollm2": (0.0,)}, "no training", False),
    "full": Arm(lambda trial: Setup(trial.model), _WHOLE, "full fine-tuning", False),
    "lisa": Arm(_with_callback(peers.Lisa), _WHOLE, "LISA: two random layers at a time", False),
    "hft": Arm(_with_callback(peers.HalfFineTuning), _WHOLE, "HFT: a random half of the weights", False),
    "badam": Arm(lambda t: Setup(t.model, optimizer=peers.badam), _WHOLE, "BAdam: one layer at a time", False),
    "top-layers": Arm(_top_layers, _WHOLE, "the last two layers", False),
    # adapters
    "lora": Arm(_peer(peers.lora("all-linear")), _LORA, "LoRA on all linear layers"),
    "lora:qv": Arm(_peer(peers.lora(["q_proj", "v_proj"])), _LORA, "LoRA on q and v"),
    "rslora": Arm(_peer(peers.lora("all-linear", use_rslora=True)), _LORA, "rank-stabilized LoRA"),
    "dora": Arm(_peer(peers.lora("all-linear", use_dora=True)), _LORA, "DoRA"),
    "shira": Arm(_peer(peers.shira), _PARTS, "SHiRA: random single weights"),
    "ia3": Arm(_peer(peers.ia3), _VECTOR, "IA3: scales of k, v and the MLP", False),
    # located
    "guided": Arm(
        _guided("attribution", first=0.4), _PARTS, "the recipes' default: attribution, task over retain, upper 60 %"
    ),
    "guided:attribution": Arm(_guided("attribution"), _PARTS, "attribution, task over retain, all layers"),
    "guided:one-sided": Arm(_guided(retain=None), _PARTS, "squared gradients of the task alone"),
    "guided:two-sided": Arm(_guided(), _PARTS, "squared gradients, task over retain"),
    "guided:fisher": Arm(_guided("fisher"), _PARTS, "squared gradients of single examples, task over retain"),
    "guided:natural-gain": Arm(_guided("natural_gain"), _PARTS, "loss to win per KL on the retain set"),
    "guided:coherence": Arm(_guided("coherence", None), _PARTS, "where the examples' gradients agree"),
    "guided:late": Arm(_guided(first=0.4), _PARTS, "squared gradients, task over retain, upper 60 % of the layers"),
    "guided:rank": Arm(
        _guided(kinds=("neuron",), within=20.0), _PARTS, "two-sided, a fifth of the model as products of low rank"
    ),
    "guided:rank-one-sided": Arm(
        _guided(retain=None, kinds=("neuron",), within=20.0), _PARTS, "the same with the gradients of the task alone"
    ),
    "guided:rank-heads": Arm(_guided(within=20.0), _PARTS, "two-sided, a fifth of the model, heads too, at low rank"),
    "guided:freeze": Arm(_guided(mode="freeze", budget="10%"), _WHOLE, "whole attentions and MLPs, 10 %", False),
    "guided:lora": Arm(_guided(mode="lora"), _LORA, "LoRA on the modules that hold the located parts"),
    # controls
    "random": Arm(_guided(strategy="random", needs_map=False), _PARTS, "slices drawn at random", drawn=True),
    "random:late": Arm(
        _guided(strategy="random", needs_map=False, first=0.4), _PARTS, "random, upper 60 % of the layers", drawn=True
    ),
    "random:rank": Arm(
        _guided(strategy="random", needs_map=False, kinds=("neuron",), within=20.0),
        _PARTS,
        "a random fifth of the model as products of low rank",
        drawn=True,
    ),
    "random:rank-heads": Arm(
        _guided(strategy="random", needs_map=False, within=20.0),
        _PARTS,
        "a random fifth of the model, heads too, as products of low rank",
        drawn=True,
    ),
    "shuffled": Arm(_guided(strategy="shuffled"), _PARTS, "as many per layer as two-sided, others", drawn=True),
    "bottom": Arm(_guided(strategy="bottom"), _PARTS, "the lowest scores of two-sided"),
    "magnitude": Arm(_guided("magnitude", None), _PARTS, "the largest weights"),
    "wrong-task": Arm(_guided(other_task=True), _PARTS, "two-sided, of another task"),
}
