"""What was asked of ``localize``, checked before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..anatomy import KINDS, Anatomy
from ..errors import GuidedError, pick
from ..selection.combine import TWO_SIDED
from ..selection.scoremap import ScoreMap
from .catalogue import find
from .given import only
from .method import Method
from .watch.recorder import Recorder

Combine = Callable[[ScoreMap, ScoreMap], ScoreMap]


@dataclass(frozen=True)
class Request:
    """One method with its options, checked."""

    name: str
    method: Method
    scorer: Callable[..., Any]
    kinds: tuple[str, ...]
    options: dict[str, object]
    asked: bool = False
    """Whether the kinds were named."""

    @property
    def is_recorder(self) -> bool:
        return isinstance(self.scorer, type) and issubclass(self.scorer, Recorder)

    def arguments(
        self, model: object, anatomy: object, task: object, progress: object = None
    ) -> tuple[tuple, dict[str, object]]:
        """What to call the scorer with."""
        if self.is_recorder:
            return (anatomy, self.kinds), self.options
        return (model, anatomy, task), {"kinds": self.kinds, "progress": progress, **self.options}

    @property
    def lacks_retain(self) -> bool:
        """Whether it compares sets and was not told in its own options with which."""
        return self.method.compares and "retain" not in self.options

    def within(self, anatomy: Anatomy) -> Request:
        """Without the kinds of which nothing is known in this model, if none was asked for by name."""
        known = tuple(kind for kind in self.kinds if kind in anatomy.family.kinds)
        if self.asked or not known:
            anatomy.check_kinds(self.kinds)
        return replace(self, kinds=known)

    def is_two_sided(self, retain: object) -> bool:
        """Whether the retain set makes the map two-sided. Raises GuidedError if there are several."""
        if retain is None or not self.method.needs_data or self.method.compares:
            return False
        only(retain, self.name)
        return True

    def with_retain(self, kept: object) -> Request:
        """A method that compares sets is given the retain set, or sets, as its option."""
        if not self.lacks_retain:
            return self
        if kept is None and inspect.signature(self.scorer).parameters["retain"].default is not inspect.Parameter.empty:
            return self
        if kept is None:
            raise GuidedError(f"{self.name}: it compares sets (give retain=Task)")
        return replace(self, options={**self.options, "retain": kept})


def read_methods(
    method: str, methods: Iterable[str] | Mapping[str, Mapping[str, object]] | None, options: dict[str, object]
) -> dict[str, tuple[str, dict[str, object]]]:
    """Name and options of each method, by label."""
    if methods is None:
        return {method: (method, options)}
    if options:
        raise GuidedError(f"methods: options go with their method (write methods={{'name': {options}}})")
    if isinstance(methods, str) or not methods:
        raise GuidedError("methods: expected a list of names, or a mapping from names to options")
    by_label = methods if isinstance(methods, Mapping) else {name: {} for name in methods}
    return {
        label: (str(given.get("method", label)), {k: v for k, v in given.items() if k != "method"})
        for label, given in by_label.items()
    }


def read_request(name: str, options: dict[str, object], kinds: tuple[str, ...] | None, seed: int) -> Request:
    method = find(name)
    if kinds is not None and not kinds:
        raise GuidedError("kinds: empty (choose from layer, head, neuron; None is all that the method scores)")
    for kind in kinds or ():
        pick(dict.fromkeys(KINDS), kind, "kinds")
        if kind not in method.kinds:
            raise GuidedError(f"{name}: it does not score a {kind} (it scores: {', '.join(method.kinds)})")
    scorer = method.load()
    if method.compares and "against" in options:
        # As it was called before.
        options = {"retain": options["against"], **{key: value for key, value in options.items() if key != "against"}}
    parameters = inspect.signature(scorer).parameters
    if "seed" in parameters:
        options = {"seed": seed, **options}
    request = Request(name, method, scorer, kinds or method.kinds, options, asked=kinds is not None)
    try:
        # What it compares with may come later.
        positional, named = request.arguments(None, None, None)
        inspect.signature(scorer).bind(*positional, **({"retain": None} if request.lacks_retain else {}), **named)
    except TypeError as error:
        raise GuidedError(f"method {name!r}: {error} (see its docstring)") from None
    return request


def read_combine(combine: str | Combine, weight: float | None) -> Combine:
    if callable(combine):
        return combine
    function = pick(TWO_SIDED, combine, "combine")
    if weight is None:
        return function
    if combine != "difference":
        raise GuidedError(f"weight: combine={combine!r} has none (use combine='difference')")
    return lambda target, retain: function(target, retain, weight)
