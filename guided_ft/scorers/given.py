"""What a localization is asked with: whether it is Tasks that the model can read, and as many as a method takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ..anatomy import check_own_forward
from ..errors import GuidedError, pick
from ..task.given import named
from ..task.task import Task


def check_given(model: nn.Module, task: object, retained: Iterable[object]) -> None:
    """Raise GuidedError for rows or a file in place of a Task, for tokens that the model does not have, and for a model
    that does not run its own layers.

    Args:
        retained: all that the task is held against: Tasks, lists of them, the word ``self``, or None.
    """
    check_own_forward(model)
    _check(model, "task", task)
    for given in retained:
        # Rows in place of a Task are a list, too.
        for each in given if isinstance(given, list | tuple) and any(isinstance(e, Task) for e in given) else [given]:
            if isinstance(each, str) and not any(c in each for c in "./"):
                pick({"self": 0}, each, "retain")
            elif each is not None and each != []:
                _check(model, "retain", each)


def _check(model: nn.Module, what: str, given: object) -> None:
    if not isinstance(given, Task):
        made = "load(path" if isinstance(given, str) else "from_dataset(rows"
        raise GuidedError(f"{what}: {named(given)} is no Task (write {what}=Task.{made}, tokenizer))")
    given.check(model)


def only(retain: Any, name: str) -> Any:
    """What a method that is held against one set is given: it, or the one of a list. Raises GuidedError for several."""
    if not isinstance(retain, list | tuple):
        return retain
    if len(retain) != 1:
        raise GuidedError(f"retain: {len(retain)} sets, but {name} is held against one (give one Task)")
    return retain[0]
