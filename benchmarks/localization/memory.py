"""Peak memory of each method, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .rows import Rows
from .runs import plain, runs
from .tasks import of_shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEMORY_SHAPE = (8, 128)


def memory(model: PreTrainedModel, rows: Rows, only: set[str]) -> None:
    """Peak resident memory of each method, in a forked process of its own."""
    task, against = of_shape(*MEMORY_SHAPE)
    todo = {"plain": lambda: plain(model, task), **runs(model, task, against)}
    slow = {"gates", "gates l0", "ablation of all heads", "attribution, verify=60", "sensitivity"}
    for label, run in todo.items():
        wanted = label == "plain" or not only or label in only
        if wanted and label not in slow and not rows.has(kind="memory", method=label):
            rows.add(kind="memory", method=label, peak_mib=_peak(run))


def _peak(run: Callable[[], object]) -> float:
    """MiB above what was in use before."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            before = _status("VmRSS")
            run()
            os.write(writer, f"{(_status('VmHWM') - before) / 1024:.1f}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    told = os.read(reader, 100).decode()
    os.close(reader)
    os.waitpid(child, 0)
    if not told:
        raise RuntimeError("the measured process died")
    return float(told)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field + ":")))
