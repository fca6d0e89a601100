"""What ``verify=60`` costs of a full exact sweep, and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from guided_ft import Anatomy, localize
from guided_ft.scorers.watch.tap import Tap
from guided_ft.selection.scoremap import ScoreMap

from .cost import seconds_of
from .rows import Rows
from .runs import plain
from .tasks import TASKS, answered, pairs_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


def verification(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Rows, examples: int, relations: str | None
) -> None:
    for name, make in TASKS.items():
        if rows.has(kind="verify", task=name):
            continue
        task = pairs_of(answered(make(tokenizer, relations), tokenizer)[:examples], 8, name)
        found: list[ScoreMap] = []

        def some(task: Any = task, found: list[ScoreMap] = found) -> None:
            found.append(localize(model, task, "attribution", None, ("head",), verify=60))

        def full(task: Any = task) -> None:
            localize(model, task, "ablation", None, ("head",))

        once = seconds_of(lambda task=task: plain(model, task))  # type: ignore[misc]
        (part, of_part), (whole, of_whole) = (_measured(model, run) for run in (some, full))
        told = found[0].meta["verified"]["head"]
        chosen = {key: told[key] for key in ("spearman", "pearson", "spearman_sample", "recall", "misses")}
        costs = {"share": part / whole, "sweep": whole / once, "cpu_seconds": part, "ablated": len(told["components"])}
        rows.add(kind="verify", task=name, examples=len(task), **costs, counted=of_part / of_whole, **chosen)


def _measured(model: nn.Module, run: Callable[[], object]) -> tuple[float, int]:
    """CPU seconds, and how many times a layer's MLP took a token in: the same on every machine."""
    anatomy, count = Anatomy.of(model), 0

    def seen(x: Any) -> None:
        nonlocal count
        count += x[..., 0].numel()

    with Tap(model) as tap:
        for layer in range(anatomy.num_layers):
            tap.at_input(anatomy.down_module(layer), seen)
        return seconds_of(run), count
