"""``listen``: play the passes that a set of recorders asks for, each only once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ...anatomy import Anatomy
from ...selection.scoremap import ScoreMap
from ...task.task import Task
from .passes import Pass
from .play import play
from .recorder import Recorder
from .scene import Scene
from .tap import Tap


def listen(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task,
    recorders: Mapping[str, Recorder],
    *,
    progress: bool | None = None,
) -> dict[str, ScoreMap]:
    """Return the map of each recorder.

    Recorders whose next pass is equal, over the same data, listen to it together. Under torchrun each process takes
    a share of the batches and the sums are added up (a model that is sharded over the processes runs all of them
    everywhere).
    """
    waiting = {name: list(recorder.program) for name, recorder in recorders.items()}
    passes = dict.fromkeys(recorders, 0)

    def head(name: str) -> tuple[Pass, Task]:
        how, group = waiting[name][0]
        return how, (task, *recorders[name].retain)[group]

    while any(waiting.values()):
        how, data = min((head(name) for name in waiting if waiting[name]), key=lambda step: step[0].order)
        present = [name for name in waiting if waiting[name] and head(name)[0] == how and head(name)[1] is data]
        _play(model, anatomy, data, how, {name: recorders[name] for name in present}, progress)
        for name in present:
            waiting[name].pop(0)
            passes[name] += how.cost * data.num_batches()
    maps = {}
    with Tap(model) as tap:
        scene = Scene(tap, anatomy, task)
        for name, recorder in recorders.items():
            with torch.no_grad():
                found = recorder.result(scene)
            maps[name] = ScoreMap.of_arrays(anatomy, found, {"passes": passes[name], **recorder.meta()})
    return maps


def _play(
    model: nn.Module,
    anatomy: Anatomy,
    task: Task,
    how: Pass,
    recorders: Mapping[str, Recorder],
    progress: bool | None,
) -> None:
    def watch(scene: Scene) -> None:
        for recorder in recorders.values():
            recorder.watch(scene, len(recorder.steps))

    def done(scene: Scene) -> None:
        for recorder in recorders.values():
            recorder.done(scene, len(recorder.steps))

    split = play(model, anatomy, task, how, watch, done, label="+".join(recorders), progress=progress)
    for recorder in recorders.values():
        recorder.close(split)
