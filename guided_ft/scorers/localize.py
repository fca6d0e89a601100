"""``localize``: ask a model which of its components matter for a task."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, overload

from torch import nn

from ..anatomy import KINDS, Anatomy
from ..errors import GuidedError, pick
from ..metrics import metric_name
from ..scoremap import ScoreMap
from ..task import Task
from . import ranks
from .catalogue import Method, find
from .combine import TWO_SIDED
from .record import record
from .recorder import Recorder
from .self_text import self_text
from .stability import warn_if_unstable
from .verify import check_count, verified

Combine = Callable[[ScoreMap, ScoreMap], ScoreMap]


@overload
def localize(
    model: nn.Module,
    task: Task,
    method: str = ...,
    retain: str | Task | None = ...,
    kinds: Iterable[str] | None = ...,
    *,
    methods: None = ...,
    combine: str | Combine = ...,
    weight: float | None = ...,
    verify: int = ...,
    seed: int = ...,
    progress: bool | None = ...,
    **options: Any,
) -> ScoreMap: ...


@overload
def localize(
    model: nn.Module,
    task: Task,
    method: str = ...,
    retain: str | Task | None = ...,
    kinds: Iterable[str] | None = ...,
    *,
    methods: Iterable[str] | Mapping[str, Mapping[str, Any]],
    combine: str | Combine = ...,
    weight: float | None = ...,
    verify: int = ...,
    seed: int = ...,
    progress: bool | None = ...,
) -> dict[str, ScoreMap]: ...


def localize(
    model: nn.Module,
    task: Task,
    method: str = "gradient",
    retain: str | Task | None = "self",
    kinds: Iterable[str] | None = None,
    *,
    methods: Iterable[str] | Mapping[str, Mapping[str, Any]] | None = None,
    combine: str | Combine = "ratio",
    weight: float | None = None,
    verify: int = 0,
    seed: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> ScoreMap | dict[str, ScoreMap]:
    """Score the layers, heads and neurons of a model for a task.

    With a retain set the map is two-sided: ``task score / (retain score + 0.1 * its mean)``, high for what matters
    for the task and not for everything else.

    Args:
        model: a causal LM, or a PeftModel of one (its adapters take part).
        task: the question.
        method: a name in ``guided_ft.scorers.catalogue.CATALOGUE``.
        retain: ``"self"`` (text that the model samples, seeded), a Task, or None for a one-sided map. A method that
            compares sets of its own accord takes it as its option ``against``, unless that is given.
        kinds: which of ``layer``, ``head``, ``neuron`` to score; None: all that the method defines.
        methods: several at once: names, or options by name (``{"mean": {"method": "attribution", "replace": "mean"}}``
            when the name is your own). Those that need the same pass over the data share it.
        combine: ``ratio``, ``difference`` (``task - weight * retain``), or a function of the two maps.
        weight: of the retain set in ``difference``; None: 1.
        verify: ablate so many components exactly, the top of each kind, and a fourth as many drawn from the rest:
            ``meta["verified"]`` tells their effects on the task beside the scores, and what the method missed.
        seed: of the sampled text and of methods and samples that are drawn.
        progress: show progress bars; None: only on a terminal.
        **options: of the method (see its docstring).

    Returns:
        A ScoreMap, whose ``meta`` tells method, options, data, seconds and passes; with ``methods``, one per name.
    """
    check_count(verify)
    wanted = _wanted(method, methods, options)
    two_sided = _two_sided(combine, weight)
    if isinstance(retain, str):
        pick({"self": 0}, retain, "retain")
    chosen = (kinds,) if isinstance(kinds, str) else kinds if kinds is None else tuple(kinds)
    requests = {label: _request(*found, chosen, seed) for label, found in wanted.items()}
    if retain is not None and combine == "ratio" and any(r.options.get("signed") for r in requests.values()):
        raise GuidedError(
            "signed: a ratio needs scores that are not negative (use retain=None or combine='difference')"
        )
    began = time.perf_counter()
    anatomy = Anatomy.of(model)
    task.check(model)
    kept = retain
    if retain == "self" and any(r.compares(retain) or r.against_missing for r in requests.values()):
        kept = ranks.same(self_text(model, seed=seed, progress=progress))
    requests = {label: request.with_against(kept) for label, request in requests.items()}
    maps = _score(model, anatomy, task, requests, progress)
    compared = {label: r for label, r in requests.items() if r.compares(retain)}
    against = _score(model, anatomy, kept, compared, progress) if isinstance(kept, Task) and compared else {}
    seconds = round(time.perf_counter() - began, 3)
    found = {}
    for label, request in requests.items():
        mine, other = maps[label], against.get(label)
        extra = dict(mine.meta or {})
        passes = extra.pop("passes", 0) + (other.meta or {}).get("passes", 0) if other else extra.pop("passes", 0)
        scores = two_sided(mine, other) if other else mine
        meta = {
            "method": request.name,
            "options": {key: _plain(value) for key, value in request.options.items()},
            "retain": _told(kept) if other and isinstance(kept, Task) else None,
            "task": _told(task),
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
            how = {k: v for k, v in request.options.items() if k in ("replace", "signed")}
            meta["verified"] = verified(model, task, scores, mine, verify, seed=seed, progress=progress, **how)
        found[label] = ScoreMap.of_arrays(anatomy, {k: scores.of(k) for k in request.kinds}, {**extra, **meta})
    return found if methods is not None else found[method]


@dataclass(frozen=True)
class _Request:
    """One method with its options, checked."""

    name: str
    method: Method
    scorer: Callable[..., Any]
    kinds: tuple[str, ...]
    options: dict[str, Any]

    @property
    def against_missing(self) -> bool:
        return self.method.against and "against" not in self.options

    def compares(self, retain: Any) -> bool:
        """Whether the retain set makes the map two-sided."""
        return retain is not None and self.method.needs_data and not self.method.against

    def with_against(self, kept: Any) -> _Request:
        """A method that compares sets takes the retain set for the other one."""
        if not self.against_missing:
            return self
        if kept is None and inspect.signature(self.scorer).parameters["against"].default is not inspect.Parameter.empty:
            return self
        if kept is None:
            raise GuidedError(f"{self.name}: it compares sets (give against=Task, or retain)")
        return replace(self, options={**self.options, "against": kept})


def _wanted(
    method: str, methods: Iterable[str] | Mapping[str, Mapping[str, Any]] | None, options: dict[str, Any]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name and options of each method, by label."""
    if methods is None:
        return {method: (method, options)}
    if options:
        raise GuidedError(f"methods: options go with their method (write methods={{'name': {options}}})")
    if isinstance(methods, str) or not methods:
        raise GuidedError("methods: expected a list of names, or a mapping from names to options")
    by_label = methods if isinstance(methods, Mapping) else {name: {} for name in methods}
    return {
        label: (given.get("method", label), {k: v for k, v in given.items() if k != "method"})
        for label, given in by_label.items()
    }


def _request(name: str, options: dict[str, Any], kinds: tuple[str, ...] | None, seed: int) -> _Request:
    method = find(name)
    for kind in kinds or ():
        pick(dict.fromkeys(KINDS), kind, "kinds")
        if kind not in method.kinds:
            raise GuidedError(f"{name}: it does not score a {kind} (it scores: {', '.join(method.kinds)})")
    scorer = method.load()
    parameters = inspect.signature(scorer).parameters
    if "seed" in parameters:
        options = {"seed": seed, **options}
    request = _Request(name, method, scorer, kinds or method.kinds, options)
    try:
        # What it compares with may come later.
        positional, named = _arguments(request, None, None, None)
        inspect.signature(scorer).bind(*positional, **({"against": None} if request.against_missing else {}), **named)
    except TypeError as error:
        raise GuidedError(f"method {name!r}: {error} (see its docstring)") from None
    return request


def _arguments(request: _Request, model: Any, anatomy: Any, task: Any, progress: Any = None) -> tuple[tuple, dict]:
    if _is_recorder(request.scorer):
        return (anatomy, request.kinds), request.options
    return (model, anatomy, task), {"kinds": request.kinds, "progress": progress, **request.options}


def _is_recorder(scorer: Any) -> bool:
    return isinstance(scorer, type) and issubclass(scorer, Recorder)


def _two_sided(combine: str | Combine, weight: float | None) -> Combine:
    if callable(combine):
        return combine
    function = pick(TWO_SIDED, combine, "combine")
    if weight is None:
        return function
    if combine != "difference":
        raise GuidedError(f"weight: combine={combine!r} has none (use combine='difference')")
    return lambda target, retain: function(target, retain, weight)


def _score(
    model: nn.Module, anatomy: Anatomy, task: Task, requests: Mapping[str, _Request], progress: bool | None
) -> dict[str, ScoreMap]:
    """The one-sided map of each request: recorders share their passes, functions run one after the other."""
    recorders, maps = {}, {}
    for label, request in requests.items():
        positional, named = _arguments(request, model, anatomy, task, progress)
        if _is_recorder(request.scorer):
            recorders[label] = request.scorer(*positional, **named)
        else:
            maps[label] = request.scorer(*positional, **named)
    return maps | record(model, anatomy, task, recorders, progress=progress)


def _told(task: Task) -> dict[str, Any]:
    return {"name": task.name, "hash": task.hash, "examples": len(task), "metric": metric_name(task.metric)}


def _plain(value: Any) -> Any:
    """An option as JSON data."""
    if isinstance(value, Task):
        return _told(value)
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
