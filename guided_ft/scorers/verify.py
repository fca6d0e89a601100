"""Screen, then verify: the exact effects of what a cheap method points at, and of some that it does not."""

from __future__ import annotations

import numpy as np
from torch import nn

from ..errors import GuidedError
from ..selection.correlation import pearson, spearman
from ..selection.scoremap import ScoreMap
from ..system.files import Json
from ..task.task import Task
from .methods.ablation import effects
from .watch.replacement import REPLACEMENTS

SAMPLE = 5
"""One of so many components that are ablated is drawn from below the top."""


def check_count(verify: int) -> None:
    if isinstance(verify, bool) or not isinstance(verify, int) or verify < 0:
        raise GuidedError(f"verify: expected a number of components from 0 up, got {verify!r}")


def verified(
    model: nn.Module,
    task: Task,
    chosen: ScoreMap,
    screened: ScoreMap,
    count: int,
    *,
    replace: str = "zero",
    signed: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> dict[str, Json]:
    """Ablate ``count`` components of each kind exactly: the top ones, and a random sample of the rest.

    The top of a map shows what a method finds; only the sample shows what it misses. With ``t`` the median exact
    effect of the top ones::

        found  = top components with an effect of at least t
        missed = sampled components with an effect of at least t, each standing for (rest / sample) of the rest
        recall = found / (found + missed)

    Args:
        chosen: the map whose top is taken.
        screened: the one-sided scores that the exact effects are compared with.
        count: how many of each kind to ablate, of which a fifth is drawn from below the top.
        replace: as in ``ablation``.
        signed: compare signed effects.
        seed: of the sample.

    Returns:
        By kind, as JSON: ``components`` (the top ones first), their ``exact`` and ``screened`` scores, ``top`` (how
        many are from the top), ``spearman`` and ``pearson`` of the two over all of them, ``spearman_sample`` over the
        sample alone (the others were selected by one of the two), ``recall``, ``misses``, ``replace``, ``signed``,
        ``seed``, ``passes``.
    """
    replace = replace if replace in REPLACEMENTS else "zero"
    return {
        kind: _kind(model, task, chosen, screened, kind, count, replace, signed, seed, progress)
        for kind in chosen.kinds
    }


def _kind(
    model: nn.Module,
    task: Task,
    chosen: ScoreMap,
    screened: ScoreMap,
    kind: str,
    count: int,
    replace: str,
    signed: bool,
    seed: int,
    progress: bool | None,
) -> Json:
    order = [c for c, _ in chosen.top(kind, chosen.of(kind).size)]
    best = count - (max(1, count // SAMPLE) if 1 < count < len(order) else 0)
    top, rest = order[:best], order[best:]
    drawn = np.random.default_rng(seed).permutation(len(rest))[: count - best]
    sample = [rest[i] for i in sorted(drawn)]
    components = top + sample
    halves, passes = effects(
        model, chosen.anatomy, task, components, replace=replace, signed=signed, seed=seed, progress=progress
    )
    exact = halves.sum(0) / len(task)
    cheap = np.array([screened.score(c) for c in components])
    bar = float(np.median(exact[: len(top)]))
    misses = [c for c, value in zip(sample, exact[len(top) :], strict=True) if value >= bar]
    found, missed = int((exact[: len(top)] >= bar).sum()), len(misses) * len(rest) / max(1, len(sample))
    return {
        "components": [str(c) for c in components],
        "exact": _rounded(exact),
        "screened": _rounded(cheap),
        "top": len(top),
        "spearman": round(spearman(cheap, exact), 4),
        "pearson": round(pearson(cheap, exact), 4),
        "spearman_sample": round(spearman(cheap[len(top) :], exact[len(top) :]), 4) if sample else 0.0,
        "recall": round(found / (found + missed), 4),
        "misses": [str(c) for c in misses],
        "replace": replace,
        "signed": signed,
        "seed": seed,
        "passes": passes,
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
