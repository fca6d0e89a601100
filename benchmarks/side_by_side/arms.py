"""The arms: every way of training that is compared, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guided_ft.callback.callback import GuidedCallback
from guided_ft.plan.plan import Plan
from guided_ft.recipe.recipe import Recipe
from guided_ft.selection.selection import Selection

from . import peers
from .directed import directed, mixed
from .located import guided
from .setup import Prepare, Setup, Trial

Rates = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Args:
        prepare: makes a fresh model ready.
        rates: the learning rates of its sweep, by suite; None: no sweep, but what a recipe takes (``rule``).
        help: one line.
        budgeted: it trains as many parameters as the cell's budget says.
        drawn: it draws at random, so it is run with several draws.
    """

    prepare: Prepare
    rates: Rates | None
    help: str
    budgeted: bool = True
    drawn: bool = False


def _top_layers(trial: Trial) -> Setup:
    from guided_ft.anatomy import Anatomy

    anatomy = Anatomy.of(trial.model)
    last = range(anatomy.num_layers - 2, anatomy.num_layers)
    selection = Selection.parse(" ".join(f"L{i}" for i in last), anatomy)
    return Setup(trial.model, guided=GuidedCallback(Plan(selection, "freeze"), learning_rate=None, prefix_cache="auto"))


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


_DEFAULT = Recipe.load("quickstart")
"""What users start from."""

_LATE = _DEFAULT.select.first_layer / 30
"""Its first layer is one of SmolLM2's 30: the same share of any model's layers is left alone."""


def _default(**changes: Any) -> Prepare:
    localize, kinds = _DEFAULT.localize, _DEFAULT.select.kinds
    return guided(localize.method, examples=localize.examples, texts=None, first=_LATE, **({"kinds": kinds} | changes))


_WHOLE: Rates = {"testbed": (1e-4, 3e-4, 1e-3, 3e-3), "smollm2": (1e-5, 3e-5, 1e-4, 3e-4)}
_BLOCKS: Rates = {"testbed": (3e-4, 1e-3, 3e-3, 1e-2), "smollm2": (3e-5, 1e-4, 3e-4, 1e-3)}
_PARTS: Rates = {"testbed": (1e-3, 3e-3, 1e-2, 3e-2), "smollm2": (1e-3, 3e-3, 1e-2, 3e-2)}
_LORA: Rates = {"testbed": (1e-3, 3e-3, 1e-2, 3e-2), "smollm2": (3e-4, 1e-3, 3e-3, 1e-2)}
_ALONG: Rates = {"testbed": (1e-2, 3e-2, 1e-1, 3e-1), "smollm2": (3e-4, 1e-3, 3e-3, 1e-2)}
_VECTOR: Rates = {"testbed": (3e-3, 1e-2, 3e-2, 1e-1), "smollm2": (3e-3, 1e-2, 3e-2, 1e-1)}

ARMS: dict[str, Arm] = {
    # whole models
    "base": Arm(lambda trial: Setup(trial.model), {"testbed": (0.0,), "smollm2": (0.0,)}, "no training", False),
    "full": Arm(lambda trial: Setup(trial.model), _WHOLE, "full fine-tuning", False),
    "full:mixed": Arm(mixed(0.1), _WHOLE, "full fine-tuning, a tenth of the rows sampled from the base model", False),
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
        _default(),
        _PARTS,
        f"the quickstart's choice: {', '.join(_DEFAULT.select.kinds)}s by {_DEFAULT.localize.method} on "
        f"{_DEFAULT.localize.examples} examples, task over retain, upper 60 % of the layers",
    ),
    "guided:auto": Arm(_default(), None, "as the default, at the rate that a recipe takes by itself"),
    "guided:heads": Arm(_default(kinds=("head", "neuron")), _PARTS, "as the default, heads too"),
    "guided:attribution-late": Arm(
        guided("attribution", first=_LATE),
        _PARTS,
        "attribution, task over retain, upper 60 %, located on more examples",
    ),
    "guided:attribution": Arm(guided("attribution"), _PARTS, "attribution, task over retain, all layers"),
    "guided:one-sided": Arm(guided(retain=None), _PARTS, "squared gradients of the task alone"),
    "guided:two-sided": Arm(guided(), _PARTS, "squared gradients, task over retain"),
    "guided:fisher": Arm(guided("fisher"), _PARTS, "squared gradients of single examples, task over retain"),
    "guided:natural-gain": Arm(guided("natural_gain"), _PARTS, "loss to win per KL on the retain set"),
    "guided:coherence": Arm(guided("coherence", None), _PARTS, "where the examples' gradients agree"),
    "guided:late": Arm(guided(first=_LATE), _PARTS, "squared gradients, task over retain, upper 60 % of the layers"),
    "guided:rank": Arm(
        guided(kinds=("neuron",), within=20.0), _PARTS, "two-sided, a fifth of the model as products of low rank"
    ),
    "guided:rank-heads": Arm(guided(within=20.0), _PARTS, "two-sided, a fifth of the model, heads too, at low rank"),
    "guided:freeze": Arm(guided(mode="freeze", budget="10%"), _BLOCKS, "whole attentions and MLPs, 10 %", False),
    "guided:lora": Arm(guided(mode="lora"), _LORA, "LoRA on the modules that hold the located parts"),
    "guided:lora-late": Arm(_default(mode="lora"), _LORA, "LoRA on the modules that hold the default's choice"),
    # directions
    "directions": Arm(directed(), _ALONG, "directions that the task uses and retained text does not, ranks by score"),
    "directions:even": Arm(directed("even"), _ALONG, "as directions, the same rank everywhere"),
    "directions:one-sided": Arm(directed(retain=None), _ALONG, "directions that the task uses"),
    "directions:shuffled": Arm(directed("shuffled"), _ALONG, "directions of another layer", drawn=True),
    "directions:random": Arm(directed("random"), _ALONG, "random directions, of the same ranks", drawn=True),
    "directions:random-even": Arm(directed("random_even"), _ALONG, "random directions, of one rank", drawn=True),
    # controls
    "random": Arm(guided(strategy="random", needs_map=False), _PARTS, "slices drawn at random", drawn=True),
    "random:default": Arm(
        _default(strategy="random", needs_map=False), _PARTS, "random, of what the default may choose", drawn=True
    ),
    "random:auto": Arm(
        _default(strategy="random", needs_map=False),
        None,
        "random, of what the default may choose, at the rate that a recipe takes by itself",
        drawn=True,
    ),
    "random:late": Arm(
        guided(strategy="random", needs_map=False, first=_LATE), _PARTS, "random, upper 60 % of the layers", drawn=True
    ),
    "random:rank": Arm(
        guided(strategy="random", needs_map=False, kinds=("neuron",), within=20.0),
        _PARTS,
        "a random fifth of the model as products of low rank",
        drawn=True,
    ),
    "random:rank-heads": Arm(
        guided(strategy="random", needs_map=False, within=20.0),
        _PARTS,
        "a random fifth of the model, heads too, as products of low rank",
        drawn=True,
    ),
    "shuffled": Arm(guided(strategy="shuffled"), _PARTS, "as many per layer as two-sided, others", drawn=True),
    "shuffled:natural-gain": Arm(
        guided("natural_gain", strategy="shuffled"), _PARTS, "as many per layer as natural gain, others", drawn=True
    ),
    "bottom": Arm(guided(strategy="bottom"), _PARTS, "the lowest scores of two-sided"),
    "magnitude": Arm(guided("magnitude", None), _PARTS, "the largest weights"),
    "wrong-task": Arm(guided(other_task=True), _PARTS, "two-sided, of another task"),
}
