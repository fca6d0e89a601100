"""Faithfulness: how much of what a model does on a task do the best components of a map do alone?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn

from ..anatomy import Anatomy
from ..errors import GuidedError
from ..selection.scoremap import Meta, ScoreMap
from ..system import processes
from ..system.files import Json
from ..system.progress import track
from ..task.metrics import metric_name
from ..task.task import Task
from .given import check_given
from .methods.ablation import TOKENS
from .watch.replacement import Values, replacement
from .watch.scene import Scene
from .watch.shortcuts import Shortcuts
from .watch.suffix import Bundle, Edit, Edits, Entry
from .watch.tap import Tap

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the components that are kept, those of the MIB benchmark."""


@dataclass(frozen=True)
class Faithfulness:
    """A faithfulness curve beside that of random choices.

    Attributes:
        fractions: shares of the components of the kind that were kept (x axis).
        counts: how many components that is.
        curve: ``f`` with the best of the map kept: 0 as nothing kept, 1 as the whole model.
        without: ``f`` with exactly these replaced and all others kept (completeness: it should fall to 0).
        band: ``mean``, ``low`` and ``high`` of ``f`` over the random choices.
        cpr, cmd: areas of the map's curve (see ``faithfulness``); ``random`` has the means of the random ones.
        full, empty: the metric of the whole model and of the model with every component replaced (nats).
        held_out: whether the examples are others than those that the map was made of.
    """

    kind: str
    fractions: list[float]
    counts: list[int]
    curve: list[float]
    without: list[float]
    band: dict[str, list[float]]
    cpr: float
    cmd: float
    random: dict[str, float]
    full: float
    empty: float
    metric: str
    replace: str
    task: Json
    held_out: bool
    draws: int
    seed: int

    def to_dict(self) -> Json:
        """Return plain JSON data."""
        return asdict(self)


def faithfulness(
    scores: ScoreMap,
    model: nn.Module,
    task: Task,
    *,
    kind: str = "head",
    fractions: Sequence[float] = FRACTIONS,
    draws: int = 5,
    replace: str | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Faithfulness:
    """Keep the best components of a map, replace all others of the kind, and see what is left of the metric.

    ::

        f(C) = (m(C) - m(empty)) / (m(full) - m(empty))
        CPR  = area under f                 higher is better
        CMD  = area under |1 - f|           lower is better

    as in MIB (Mueller et al. 2025, arXiv 2504.13151, section 3), where ``m`` is the mean metric over the examples
    (the loss with its sign turned, so that more is better), and the areas are trapezoids over the fractions.

    Args:
        task: held-out examples of the same question.
        kind: which components; those of other kinds stay as they are.
        draws: random orders of the components for the band.
        replace: what the others say, as in ``ablation``; None: ``corrupted`` where the task has pairs, else ``mean``.

    Cost: a forward pass for each fraction, for itself and for its complement, and one for each random draw.

    Raises:
        GuidedError: for a map of another model, or if replacing all components changes nothing.
    """
    if not fractions or list(fractions) != sorted(set(fractions)) or not 0 < fractions[0] <= fractions[-1] <= 1:
        raise GuidedError(f"fractions: expected ascending shares above 0 and up to 1, got {list(fractions)}")
    if draws < 1:
        raise GuidedError(f"draws: expected 1 or more, got {draws!r}")
    check_given(model, task, ())
    if Anatomy.of(model) != scores.anatomy:
        raise GuidedError("faithfulness: the map is of another model (localize this one)")
    replace = replace or ("mean" if task.corrupted is None else "corrupted")
    anatomy = scores.anatomy
    there = np.repeat([anatomy.has_any(kind, layer) for layer in range(anatomy.num_layers)], anatomy.size(kind))
    best = np.argsort(-scores.of(kind).ravel()[there], kind="stable")
    rng = np.random.default_rng(seed)
    orders = [best, *(rng.permutation(best.size) for _ in range(draws))]
    counts = [round(fraction * best.size) for fraction in fractions]
    kept = [_first(order, count) for order in orders for count in counts]
    kept += [~keep for keep in kept[: len(counts)]] + [_first(best, 0), _first(best, best.size)]
    # What a layer does not have is always as it is.
    choices = np.ones((len(kept), there.size), dtype=bool)
    choices[:, there] = np.array(kept)
    values = _metric(model, anatomy, task, kind, choices, replace, seed, progress)
    *values, empty, full = values
    if abs(full - empty) < 1e-6:
        raise GuidedError(
            f"faithfulness: replacing every {kind} ({replace}) leaves the metric at {full:.4g} (try another kind)"
        )
    curves = (np.array(values).reshape(draws + 2, -1) - empty) / (full - empty)
    curve, randoms, without = curves[0], curves[1:-1], curves[-1]
    x = list(fractions)
    return Faithfulness(
        kind=kind,
        fractions=x,
        counts=counts,
        curve=curve.tolist(),
        without=without.tolist(),
        band={"mean": randoms.mean(0).tolist(), "low": randoms.min(0).tolist(), "high": randoms.max(0).tolist()},
        cpr=_area(x, curve),
        cmd=_area(x, np.abs(1 - curve)),
        random={
            "cpr": float(np.mean([_area(x, r) for r in randoms])),
            "cmd": float(np.mean([_area(x, np.abs(1 - r)) for r in randoms])),
        },
        full=full,
        empty=empty,
        metric=metric_name(task.metric),
        replace=replace,
        task={"name": task.name, "hash": task.hash, "examples": len(task)},
        held_out=not _seen(scores.meta) & {task.hash, *task.digests},
        draws=draws,
        seed=seed,
    )


def _seen(meta: Meta) -> set[str]:
    """Digests of the examples that a map, or the maps that it combines, was made of; in older ones of all together."""
    mine = {*([meta["task"]["hash"]] if "task" in meta else []), *meta.get("seen", "").split()}
    return mine.union(*(_seen(part) for part in meta.get("of", ())))


def _first(order: np.ndarray, count: int) -> np.ndarray:
    keep = np.zeros(order.size, dtype=bool)
    keep[order[:count]] = True
    return keep


def _area(x: list[float], y: np.ndarray) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def _metric(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task,
    kind: str,
    kept: np.ndarray,
    replace: str,
    seed: int,
    progress: bool | None,
) -> list[float]:
    """Mean metric when only some components are left as they are: ``kept [choices, components] -> choices``."""
    provider = replacement(replace)
    # Equal choices (small fractions of few components) run once; the whole model needs no run of its own.
    choices, place = np.unique(kept, axis=0, return_inverse=True)
    whole = np.asarray(choices.all(1))
    sums = torch.zeros(len(choices), dtype=torch.double)
    split = processes.size() > 1 and not processes.is_sharded(model)
    with Tap(model) as tap, torch.no_grad():
        scene = Scene(tap, anatomy, task)
        provide, shortcuts = provider(scene, (kind,), seed), Shortcuts(scene, {0})
        for number, batch in processes.share(enumerate(task.batches(next(model.parameters()).device)), split):
            scene.show(batch)
            values = provide(number)
            suffix = shortcuts.suffix()
            sums[torch.from_numpy(whole)] -= float(task.loss(suffix.clean, suffix.clean).double().sum())
            partial = np.flatnonzero(~whole)
            chunks = np.array_split(partial, -(-partial.size * suffix.tokens // TOKENS))
            for chunk in track(chunks, len(chunks), f"faithfulness {number + 1}/{task.num_batches()}", progress):
                if chunk.size:
                    masks = (
                        torch.from_numpy(choices[chunk]).unflatten(1, (anatomy.num_layers, -1)).to(suffix.clean.device)
                    )
                    after = suffix.edited([Entry(0, chunk.size, _edits(anatomy, kind, masks, values))])
                    loss = task.loss(after.flatten(), suffix.clean.repeat(chunk.size)).view_as(after)
                    sums[chunk] -= loss.double().sum(1).cpu()
    if split:
        processes.reduce(reduced := {"sums": sums})
        sums = reduced["sums"].cpu()
    return (sums / len(task))[place.ravel()].tolist()


def _edits(anatomy: Anatomy, kind: str, masks: torch.Tensor, values: Values) -> Edits:
    """Replace in each copy what it does not keep: ``masks [copies, layers, components]``."""

    def edit_of(layer: int) -> Edit:
        keep, value = masks[:, layer], values.get((kind, layer))

        def edit(a: torch.Tensor, bundle: Bundle) -> None:
            width = a.shape[-1] // keep.shape[-1]
            stays = keep.repeat_interleave(width, 1)[None, :, None, None]
            other = torch.zeros((), dtype=a.dtype, device=a.device) if value is None else bundle.of(value).to(a)
            a.copy_(torch.where(stays, a, other if other.ndim < 4 else other[:, None]))

        return edit

    return {(kind, layer): edit_of(layer) for layer in anatomy.layers_of(kind)}
