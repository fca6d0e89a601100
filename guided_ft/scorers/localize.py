"""``localize``: ask a model which of its components matter for a task."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from ..anatomy import KINDS, Anatomy
from ..errors import GuidedError, pick
from ..scoremap import ScoreMap
from ..task import Task
from .catalogue import find
from .self_text import self_text

FLOOR = 0.1
"""Share of the mean retain score that is added below the ratio, so that a unit which retains nothing cannot win by
division by almost zero."""


def localize(
    model: nn.Module,
    task: Task,
    method: str = "gradient",
    retain: str | Task | None = "self",
    kinds: Iterable[str] = KINDS,
    *,
    seed: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> ScoreMap:
    """Score the layers, heads and neurons of a model for a task.

    With a retain set the map is two-sided: ``task score / (retain score + 0.1 * its mean)``, high for what matters
    for the task and not for everything else.

    Args:
        model: a causal LM, or a PeftModel of one (its adapters take part).
        task: the question.
        method: a name in ``guided_ft.scorers.catalogue.CATALOGUE``.
        retain: ``"self"`` (text that the model samples, seeded), a Task, or None for a one-sided map.
        kinds: which of ``layer``, ``head``, ``neuron`` to score.
        seed: of the sampled text and of ``random``.
        progress: show progress bars; None: only on a terminal.
        **options: of the method (see its docstring).

    Returns:
        A ScoreMap; its ``meta`` tells method, options, data, seconds and passes.
    """
    found = find(method)
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in kinds:
        pick(dict.fromkeys(KINDS), kind, "kinds")
    if options.get("signed") and retain is not None:
        raise GuidedError("signed: a ratio needs scores that are not negative (use retain=None)")
    if isinstance(retain, str):
        pick({"self": 0}, retain, "retain")
    anatomy = Anatomy.of(model)
    scorer = found.load()
    began = time.perf_counter()
    if method == "random":
        options = {"seed": seed, **options}
    try:
        scores = scorer(model, anatomy, task, kinds=kinds, progress=progress, **options)
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise GuidedError(f"method {method!r}: {str(error).split('() ')[-1]} (see its docstring)") from None
        raise
    passes = (scores.meta or {}).get("passes", 0)
    if not found.needs_data:
        retain = None
    if retain is not None:
        kept = retain if isinstance(retain, Task) else self_text(model, seed=seed, progress=progress)
        against = scorer(model, anatomy, kept, kinds=kinds, progress=progress, **options)
        passes += (against.meta or {}).get("passes", 0)
        scores = ScoreMap.of_arrays(anatomy, {k: _ratio(scores.of(k), against.of(k)) for k in kinds})
    meta = {
        "method": method,
        "options": options,
        "retain": None if retain is None else {"name": kept.name, "hash": kept.hash, "examples": len(kept)},
        "task": {"name": task.name, "hash": task.hash, "examples": len(task)},
        "model": getattr(model, "name_or_path", "") or anatomy.model_type,
        "seed": seed,
        "passes": passes,
        "seconds": round(time.perf_counter() - began, 3),
    }
    return ScoreMap.of_arrays(anatomy, {k: scores.of(k) for k in kinds}, meta)


def _ratio(target: np.ndarray, retain: np.ndarray) -> np.ndarray:
    floor = FLOOR * float(retain.mean())
    # A retain set that touches nothing at all leaves the one-sided map.
    return target / (retain + floor) if floor > 0 else target
