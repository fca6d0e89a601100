"""``select_directions``: spend a budget of parameters on a map of directions. Imports no torch."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

from ..anatomy import Anatomy
from ..errors import GuidedError, pick
from ..system.arrays import MAX_ARRAYS
from .budget import parse_budget
from .directions import DirectionMap
from .how import How
from .selection import Selection
from .settings import SelectOptions
from .strategies import DIRECTION_STRATEGIES
from .subspace import Subspace

logger = logging.getLogger(__name__)


LEAST, SPREAD = 64, 2.45
"""Directions that are mapped of a layer at least; and how many times the mean rank, for layers that get more of it."""


def enough_directions(anatomy: Anatomy, budget: str | float | int, modules: Iterable[str]) -> int:
    """Directions to map per layer, so that a budget can be spent on the best of them: 64 for 3 % of SmolLM2-135M, and
    no less for any.

    Of the largest models they are fewer, as a file of more than ``MAX_ARRAYS`` is not read.

    Args:
        modules: full names of the linear layers to spend it on.

    Raises:
        GuidedError: for a budget that cannot be read, or that is more than the model.
    """
    sizes = [anatomy.outputs_inputs(anatomy.relative(name)) for name in modules]
    outputs, inputs = map(sum, zip(*sizes, strict=True))
    wanted = math.ceil(SPREAD * parse_budget(budget, anatomy.num_parameters) / outputs)
    return max(LEAST, min(wanted, 3 * MAX_ARRAYS // 4 // (4 * inputs)))


def select_directions(
    found: DirectionMap,
    budget: str | float | int = SelectOptions.budget,
    strategy: str = "top",
    *,
    seed: int = 0,
    first_layer: int = 0,
    within: Selection | None = None,
) -> Subspace:
    """Choose directions within a budget of parameters.

    A direction costs as many parameters as its layer has outputs. The budget is never exceeded, a larger one only adds
    (nested), and equal scores go by name.

    Args:
        found: the map to spend on. A map that was made without retained text gives the one-sided control.
        budget: ``"1%"``, ``0.01`` or a number of parameters.
        strategy: ``top``: by score per parameter, so that ranks differ by layer; ``even``: the best of every layer,
            then the second best of every layer, ...; ``random`` and ``random_even``: orthonormal random directions, of
            the ranks that ``top`` and ``even`` give; ``shuffled``: the ranks of ``top``, with the directions of the
            same projection in another layer.
        seed: of ``random`` and ``shuffled``.
        first_layer: leave the layers below this one alone.
        within: only the linear layers that hold one of these components.

    Raises:
        GuidedError: for an unknown strategy, or if the budget buys nothing.
    """
    spend, choose = pick(DIRECTION_STRATEGIES, strategy, "strategy")
    anatomy = found.anatomy
    limit = parse_budget(budget, anatomy.num_parameters)
    if not 0 <= first_layer < anatomy.num_layers:
        raise GuidedError(f"first_layer: {first_layer}, but this model has layers 0 to {anatomy.num_layers - 1}")
    if within is not None and within.anatomy != anatomy:
        raise GuidedError("within: the selection is of another model than the map")
    held = None if within is None else {part.module for part in within.slices()}
    modules = [m for m in found.modules if anatomy.layer_of(m) >= first_layer and (held is None or m in held)]
    if not modules:
        raise GuidedError("select_directions: the map has no layer among those that are wanted (first_layer, within)")
    ranks = spend(found, modules, limit)
    if not ranks:
        least = min(found.outputs(m) for m in modules)
        raise GuidedError(f"budget: {budget} buys nothing: a direction costs {least:,} parameters (raise the budget)")
    spent = sum(r * found.outputs(m) for m, r in ranks.items())
    if all(ranks.get(m) == len(found.scores[m]) for m in modules) and limit - spent >= min(map(found.outputs, modules)):
        wanted = enough_directions(anatomy, budget, modules)
        more = wanted > max(len(found.scores[m]) for m in modules)
        mend = f"map more of them: max_rank={wanted}" if more else "a map holds no more of them"
        said = f"buys {limit:,} parameters, but all directions of the map take {spent:,} ({mend})"
        logger.warning("budget: %s %s", budget, said)
    how = How(
        method=found.meta.get("method"),
        strategy=strategy,
        budget=str(budget),
        budget_parameters=limit,
        seed=seed,
        first_layer=first_layer,
        within=None if within is None else within.text,
        map=found.hash,
    )
    return Subspace(anatomy, choose(found, ranks, seed), how)
