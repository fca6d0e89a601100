"""Whether what a localization is asked with are Tasks that the model can read."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ..errors import GuidedError, pick
from ..task.given import named
from ..task.task import Task


def check_given(model: nn.Module, task: object, retain: object, others: Iterable[object] = ()) -> None:
    """Raise GuidedError for rows or a file in place of a Task, and for tokens that the model does not have.

    Args:
        retain: a Task, the word ``self``, or None.
        others: further sets to compare with; None: there is none.
    """
    a_file = isinstance(retain, str) and any(c in retain for c in "./")
    if isinstance(retain, str) and not a_file:
        pick({"self": 0}, retain, "retain")
        retain = None
    for what, given in (("task", task), ("retain", retain), *(("against", other) for other in others)):
        if given is None and what != "task":
            continue
        if not isinstance(given, Task):
            made = "load(path" if isinstance(given, str) else "from_dataset(rows"
            raise GuidedError(f"{what}: {named(given)} is no Task (write {what}=Task.{made}, tokenizer))")
        given.check(model)
