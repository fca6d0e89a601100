"""``play``: one pass over a task, watched; under torchrun each process takes a share of the batches."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ...anatomy import Anatomy
from ...system import processes
from ...system.progress import track
from ...task.task import Task
from .passes import Pass
from .scene import Scene
from .tap import Tap


def play(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task,
    how: Pass,
    watch: Callable[[Scene], None],
    done: Callable[[Scene], None] | None = None,
    *,
    label: str = "",
    progress: bool | None = False,
) -> bool:
    """Run a model over a task.

    Args:
        watch: asks for what it wants to see, before the first batch.
        done: called after each batch.
        label: of the progress bar.

    Returns:
        Whether this process saw a share of the batches only, so that sums are to be added up over processes.
    """
    split = processes.size() > 1 and not processes.is_sharded(model)
    if split:
        processes.agree(f"task {task.name!r}", task.hash)
    with Tap(model, start_graph=how.start_graph) as tap:
        scene = Scene(tap, anatomy, task)
        watch(scene)
        device = next(model.parameters()).device
        batches = track(task.batches(device), task.num_batches(), label, progress)
        for number, batch in processes.share(enumerate(batches), split):
            scene.show(batch, first=number * task.batch_size)
            how.run(scene)
            if done is not None:
                done(scene)
    return split
