"""``localize``: ask a model which of its components matter for a task."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

from torch import nn

from ..anatomy import Anatomy
from ..errors import GuidedError
from ..selection.scoremap import ScoreMap
from ..slice.storage import forbid_packing
from ..system import processes
from ..system.files import Json
from ..task.metrics import metric_name
from ..task.task import Task
from .given import check_given
from .memory import smaller, within_memory
from .requests import Combine, Request, read_combine, read_methods, read_request
from .self_text import self_text
from .settings import LocalizeOptions
from .stability import warn_if_unstable
from .verify import check_count, verified
from .watch.listen import listen


@overload
def localize(
    model: nn.Module,
    task: Task,
    method: str = ...,
    retain: str | Task | Sequence[Task] | None = ...,
    kinds: Iterable[str] | None = ...,
    *,
    methods: None = ...,
    combine: str | Combine = ...,
    weight: float | None = ...,
    verify: int = ...,
    seed: int = ...,
    progress: bool | None = ...,
    **options: object,
) -> ScoreMap: ...


@overload
def localize(
    model: nn.Module,
    task: Task,
    method: str = ...,
    retain: str | Task | Sequence[Task] | None = ...,
    kinds: Iterable[str] | None = ...,
    *,
    methods: Iterable[str] | Mapping[str, Mapping[str, object]],
    combine: str | Combine = ...,
    weight: float | None = ...,
    verify: int = ...,
    seed: int = ...,
    progress: bool | None = ...,
) -> dict[str, ScoreMap]: ...


def localize(
    model: nn.Module,
    task: Task,
    method: str = LocalizeOptions.method,
    retain: str | Task | Sequence[Task] | None = LocalizeOptions.retain,
    kinds: Iterable[str] | None = LocalizeOptions.kinds,
    *,
    methods: Iterable[str] | Mapping[str, Mapping[str, object]] | None = None,
    combine: str | Combine = LocalizeOptions.combine,
    weight: float | None = LocalizeOptions.weight,
    verify: int = LocalizeOptions.verify,
    seed: int = LocalizeOptions.seed,
    progress: bool | None = None,
    **options: object,
) -> ScoreMap | dict[str, ScoreMap]:
    """Score the layers, heads and neurons of a model for a task.

    With a retain set the map is two-sided: ``task score / (retain score + 0.1 * its mean)``, high for what matters
    for the task and not for everything else.

    Cost: the passes of the method over the task, which ``guided-ft methods`` and its docstring tell, and as many over
    the retain set; to sample that, a forward pass for each token of its texts; with ``verify`` one over the task for
    each component. The model and the random state are left as they were.

    Args:
        model: a causal LM, or a PeftModel of one (its adapters take part).
        task: the question.
        method: a name in ``guided_ft.scorers.catalogue.CATALOGUE``.
        retain: ``"self"`` (text that the model samples, seeded), a Task, or None for a one-sided map. A method that
            compares sets by itself takes it for the other set, or a list of Tasks for several.
        kinds: which of ``layer``, ``head``, ``neuron`` to score; None: all that the method defines.
        methods: several at once: names, or options by name (``{"mean": {"method": "attribution", "replace": "mean"}}``
            when the name is your own). Those that need the same pass over the data share it.
        combine: ``ratio``, ``difference`` (``task - weight * retain``), or a function of the two maps.
        weight: of the retain set in ``difference``; None: 1.
        verify: ablate so many components of each kind exactly, the top ones and, a fifth of them, some drawn from the
            rest: ``meta["verified"]`` tells their effects on the task beside the scores, and what the method missed.
        seed: of the sampled text and of methods and samples that are drawn.
        progress: show progress bars; None: only on a terminal.
        **options: of the method (see its docstring).

    Returns:
        A ScoreMap, whose ``meta`` tells method, options, data, seconds and passes; with ``methods``, one per name.
        ``meta["retain"]`` is what the map is held against, ``meta["combine"]`` how, if not by the method itself.

    Raises:
        GuidedError: for a model, method, option or kind that is unknown or does not fit the others; a task or retain
            set that the method cannot ask; scores that are not finite; one example that memory does not hold.
    """
    check_count(verify)
    wanted = read_methods(method, methods, options)
    two_sided = read_combine(combine, weight)
    chosen = (kinds,) if isinstance(kinds, str) else kinds if kinds is None else tuple(kinds)
    requests = {label: read_request(*found, chosen, seed) for label, found in wanted.items()}
    if retain is not None and combine == "ratio" and any(r.options.get("signed") for r in requests.values()):
        raise GuidedError(
            "signed: a ratio needs scores that are not negative (use retain=None or combine='difference')"
        )
    began = time.perf_counter()
    forbid_packing(model)
    anatomy = Anatomy.of(model)
    requests = {label: request.within(anatomy) for label, request in requests.items()}
    if isinstance(retain, list | tuple) and len(retain) == 1 and isinstance(retain[0], Task):
        retain = retain[0]
    check_given(model, task, (retain, *(r.options.get("retain") for r in requests.values())))
    kept = retain
    compared = {label: r for label, r in requests.items() if r.is_two_sided(retain)}
    if retain == "self" and (compared or any(r.lacks_retain for r in requests.values())):
        kept = processes.same(self_text(model, seed=seed, progress=progress))
    requests = {label: request.with_retain(kept) for label, request in requests.items()}
    maps = _score_within_memory(model, anatomy, task, requests, progress)
    others = {}
    if isinstance(kept, Task) and compared:
        others = _score_within_memory(model, anatomy, kept, compared, progress)
    seconds = round(time.perf_counter() - began, 3)
    found = {}
    for label, request in requests.items():
        mine, other = maps[label], others.get(label)
        extra = dict(mine.meta)
        extra.pop("passes", 0)
        passes = mine.meta.get("passes", 0) + (other.meta.get("passes", 0) if other else 0)
        scores = two_sided(mine, other) if other else mine
        held_against = request.options.get("retain") if request.method.compares else kept if other else None
        meta = {
            "method": request.name,
            "options": {key: _plain(value) for key, value in request.options.items()},
            "retain": _told_as_one(held_against),
            "task": _told(task),
            "seen": " ".join(task.digests),
            "model": getattr(model, "name_or_path", "") or anatomy.model_type,
            "seed": seed,
            "passes": passes,
            "seconds": seconds,
        }
        if other:
            meta["combine"] = combine if isinstance(combine, str) else getattr(combine, "__name__", "own")
        if len(requests) > 1:
            meta["together_with"] = sorted(set(requests) - {label})
        warn_if_unstable({**extra, **meta})
        if verify:
            # A path that starts at the corrupted prompt estimates what patching it does.
            same = {"replace": "replace", "baseline": "replace", "signed": "signed"}
            how: dict[str, Any] = {same[k]: v for k, v in request.options.items() if k in same}
            began = time.perf_counter()
            meta["verified"] = verified(model, task, scores, mine, verify, seed=seed, progress=progress, **how)
            meta["seconds"] = round(seconds + time.perf_counter() - began, 3)
        found[label] = ScoreMap.of_arrays(anatomy, {k: scores.of(k) for k in request.kinds}, {**extra, **meta})
    return found if methods is not None else found[method]


def _score_within_memory(
    model: nn.Module, anatomy: Anatomy, task: Task, requests: Mapping[str, Request], progress: bool | None
) -> dict[str, ScoreMap]:
    def score(size: int) -> dict[str, ScoreMap]:
        of_size = {
            label: replace(r, options={key: smaller(value, size) for key, value in r.options.items()})
            for label, r in requests.items()
        }
        return _score(model, anatomy, smaller(task, size), of_size, progress)

    return within_memory(task, score)


def _score(
    model: nn.Module, anatomy: Anatomy, task: Task, requests: Mapping[str, Request], progress: bool | None
) -> dict[str, ScoreMap]:
    """The one-sided map of each request: recorders share their passes, functions run one after the other."""
    recorders, maps = {}, {}
    for label, request in requests.items():
        positional, named = request.arguments(model, anatomy, task, progress)
        if request.is_recorder:
            recorders[label] = request.scorer(*positional, **named)
        else:
            maps[label] = request.scorer(*positional, **named)
    return maps | listen(model, anatomy, task, recorders, progress=progress)


def _told(task: Task) -> Json:
    return {"name": task.name, "hash": task.hash, "examples": len(task), "metric": metric_name(task.metric)}


def _told_as_one(retain: Any) -> Json | None:
    """What a map is held against, or None; several sets in one line, of which the options tell each."""
    sets = [_told(task) for task in ([retain] if isinstance(retain, Task) else retain or ())]
    if len(sets) < 2:
        return sets[0] if sets else None
    told = {key: " ".join(dict.fromkeys(each[key] for each in sets)) for key in ("name", "hash", "metric")}
    return {**told, "examples": sum(each["examples"] for each in sets)}


def _plain(value: object) -> Any:
    """An option as JSON data."""
    if isinstance(value, Task):
        return _told(value)
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
