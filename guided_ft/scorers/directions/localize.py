"""``localize_directions``: ask a model along which directions a task can be learned and the rest left alone."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...anatomy import Anatomy, base_model, settings_of
from ...errors import GuidedError
from ...selection.directions import DirectionMap, check_linear
from ...selection.scoremap import Meta, Told
from ...selection.settings import SelectOptions
from ...selection.spend import enough_directions
from ...slice.fingerprint import fingerprint
from ...system import processes
from ...system.files import digest, parse_size
from ...task.task import Task
from ..given import check_given, only
from ..self_text import self_text
from .kept import Kept
from .solve import factorized, top_directions
from .statistics import mean_gradients, second_moments, shared_inputs

SELF_TEXTS, SELF_TOKENS = 64, 64
"""Texts to sample, and their longest length: directions that few texts leave free may be those that others need."""


def localize_directions(
    model: nn.Module,
    task: Task,
    retain: str | Task | None = "self",
    *,
    lam: float = 0.01,
    max_rank: int | None = None,
    budget: str | float | int = SelectOptions.budget,
    modules: Iterable[str] | None = None,
    memory: str | int = "4GB",
    cache: str | Path | None = None,
    exact: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> DirectionMap:
    """Find the input directions of linear layers with most to win for a task per change of retained text.

    With ``G [out, in]`` the gradient of the task's mean loss and ``C [in, in]`` the mean of ``x x^T`` over the tokens
    of the retained text, scaled to trace ``in``, plus ``lam * I``: the top generalized eigenvectors of ``(G^T G, C)``,
    scaled to length 1; their eigenvalues are the scores. It takes a forward and backward pass over the task and a
    forward pass over the retained text; weights are never read, so the model may be quantized.

    ``C`` as what forgetting is measured by is K-FAC's input factor (Martens & Grosse 2015, arXiv 1503.05671) of the
    retained text; CorDA (arXiv 2406.05223) and LoRA-Null (arXiv 2503.02659) use its eigenvectors without the task's
    gradient, LoRA-GA (arXiv 2407.05000) the gradient without ``C``.

    Args:
        model: a causal LM, or a PeftModel of one.
        task: what to learn; its own loss (SFT or DPO) is used.
        retain: what to leave alone: ``"self"`` (text that the model samples, seeded), a Task, or None (``C = I``). Text
            close to the task that must not change belongs into it: the map cannot see what it was not shown.
        lam: share of ``I`` in ``C``.
        max_rank: directions per layer, at most; None: enough for the budget.
        budget: what shall be spent on the map: as in ``select_directions``; one that is enough for the default at least
            is made.
        modules: full names of the linear layers; None: all projections of attention and MLP.
        memory: for the statistics; layers are worked through in as many groups as it takes, with passes for each.
        cache: folder in which the statistics of the retained text are kept, by model and text; not those of a model
            that carries adapters (``merge_and_unload`` them first).
        exact: full singular value decompositions instead of a randomized range finder.
        seed: of the sampled text and of the random starts.
        progress: show progress bars; None: only on a terminal.

    Raises:
        GuidedError: for experts, which are no linear layers (name ``modules`` without them).
    """
    began = time.perf_counter()
    anatomy = Anatomy.of(model)
    names = _names(anatomy, modules)
    if max_rank is None:
        max_rank = max(enough_directions(anatomy, wanted, names) for wanted in (budget, SelectOptions.budget))
    _check_numbers(lam, max_rank)
    check_given(model, task, (retain,))
    retain = only(retain, "a map of directions")
    cache = None if retain is None or _has_adapters(model) else cache
    identity = (fingerprint(model), settings_of(model)) if cache is not None else None
    if retain == "self":
        retain = _self_text(model, identity, cache, seed, progress)
    text = retain if isinstance(retain, Task) else None
    first = shared_inputs(anatomy)
    kept = Kept(cache, identity, text.hash if text else "", _moment_bytes(anatomy, names, first))
    groups = list(_groups(anatomy, names, first, parse_size(memory)))
    bases: dict[str, np.ndarray] = {}
    scores: dict[str, np.ndarray] = {}
    rows: dict[str, np.ndarray] = {}
    computed = 0
    for group in groups:
        inputs = list(dict.fromkeys(_source(anatomy, first, name) for name in group))
        moments: dict[str, torch.Tensor] = {}
        if text is not None:
            found = kept.load(anatomy, inputs)
            moments = found if found is not None else second_moments(model, anatomy, text, inputs)
            if found is None:
                computed += 1
                kept.save(moments)
        gradients = mean_gradients(model, anatomy, task, group)
        factors: dict[str, torch.Tensor] = {}
        for name in group:
            g = gradients.pop(name)
            source = _source(anatomy, first, name)
            if text is not None and source not in factors:
                factors = {source: factorized(_finite(moments.pop(source).to(g.device), name), lam)}
            start = zlib.crc32(f"{seed} {name}".encode())
            basis, values, shares = top_directions(_finite(g, name), factors.get(source), max_rank, start, exact=exact)
            bases[name], scores[name], rows[name] = (part.cpu().numpy() for part in (basis, values, shares))
    meta: Meta = {
        "method": "directions",
        "lam": lam,
        "max_rank": max_rank,
        "exact": exact,
        "retain": _told(text) if text else None,
        "task": _told(task),
        "seen": " ".join(task.digests),
        "model": getattr(model, "name_or_path", "") or anatomy.model_type,
        "seed": seed,
        "groups": len(groups),
        "passes": len(groups) * task.num_batches() + computed * (text.num_batches() if text else 0),
        "seconds": round(time.perf_counter() - began, 3),
    }
    return DirectionMap(anatomy, bases, scores, rows, meta)


def _has_adapters(model: nn.Module) -> bool:
    """Whether more may take part than what the fingerprint sees, and at a scale that no tensor says."""
    return base_model(model) is not model or any(getattr(m, "adapter_layer_names", ()) for m in model.modules())


def _check_numbers(lam: float, max_rank: int) -> None:
    if not 0 < lam < float("inf"):
        raise GuidedError(f"lam: {lam} is not above 0")
    if isinstance(max_rank, bool) or not isinstance(max_rank, int) or max_rank < 1:
        raise GuidedError(f"max_rank: expected a number of directions from 1 up, got {max_rank!r}")


def _names(anatomy: Anatomy, modules: Iterable[str] | None) -> list[str]:
    """The layers that are wanted, those that share an input side by side."""
    order = [anatomy.module(layer, name) for layer in range(anatomy.num_layers) for name in anatomy.names_in(layer)]
    wanted = order if modules is None else list(modules)
    if not wanted:
        raise GuidedError("modules: empty (name at least one linear layer)")
    for name in wanted:
        check_linear(anatomy, name)
    chosen = set(wanted)
    return [name for name in order if name in chosen]


def _source(anatomy: Anatomy, first: dict[str, str], name: str) -> str:
    return anatomy.module(anatomy.layer_of(name), first[anatomy.relative(name)])


def _groups(anatomy: Anatomy, names: list[str], first: dict[str, str], limit: int) -> Iterator[list[str]]:
    """Layers of the model together as far as their statistics fit; at least one at a time."""
    group: list[str] = []
    size = 0
    for layer in range(anatomy.num_layers):
        members = [name for name in names if anatomy.layer_of(name) == layer]
        pairs = [anatomy.outputs_inputs(anatomy.relative(name)) for name in members]
        more = 4 * sum(o * i for o, i in pairs) + _moment_bytes(anatomy, members, first)
        if group and size + more > limit:
            yield group
            group, size = [], 0
        group, size = group + members, size + more
    if group:
        yield group


def _moment_bytes(anatomy: Anatomy, names: list[str], first: dict[str, str]) -> int:
    sources = {_source(anatomy, first, name) for name in names}
    return sum(4 * anatomy.outputs_inputs(anatomy.relative(name))[1] ** 2 for name in sources)


def _finite(values: torch.Tensor, name: str) -> torch.Tensor:
    if not torch.isfinite(values).all():
        raise GuidedError(f"directions of {name}: gradients or inputs are not finite (check the data and the dtype)")
    return values


def _self_text(model: nn.Module, identity: object, cache: str | Path | None, seed: int, progress: bool | None) -> Task:
    """Text that the model samples; it is kept beside its statistics."""
    path = Path(cache) / f"self-{digest(identity, SELF_TEXTS, SELF_TOKENS, seed)}.jsonl" if cache else None
    found = processes.same(Task.load(path, name="self") if path and path.is_file() else None)
    if found is None:
        sampled = self_text(model, num_examples=SELF_TEXTS, num_tokens=SELF_TOKENS, seed=seed, progress=progress)
        found = processes.same(sampled)
        if path and processes.is_first():
            with contextlib.suppress(OSError):  # kept to save time, and no more
                found.save(path)
    return found


def _told(task: Task) -> Told:
    return {"name": task.name, "hash": task.hash, "examples": len(task)}
