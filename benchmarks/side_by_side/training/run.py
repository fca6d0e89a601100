"""Run what is due, one row after the other, in one process or several; a stopped benchmark continues where it was."""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from guided_ft.errors import GuidedError, pick
from guided_ft.system.files import Json, write_json
from guided_ft.system.progress import hushed

from ..arms.arms import ARMS
from ..rows.rows import PHASES, append_row, read_rows
from ..suites.cell import Cell, due

_LAB: list[Any] = []
"""The lab of a worker process: loaded once, used for every cell."""


def run_suite(
    name: str,
    out: Path,
    *,
    quick: bool = False,
    only: dict[str, set[str]] | None = None,
    processes: int = 1,
    threads: int | None = None,
    limit: int | None = None,
    data: Path | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Run the missing cells of a suite and append their rows to ``out/<name>.jsonl``.

    Args:
        out: folder of the rows, where a pre-trained model of the suite's own may lie too.
        quick: a handful of tiny runs, to prove that everything works.
        only: fields of a cell and the values wanted, as ``parse_only`` reads them: ``{"arm": {"full", "lora"}}``.
        processes: runs at a time.
        threads: of each; None: the machine's share.
        limit: stop after so many runs.
        data: folder of the suite's files, where it needs some.

    Returns:
        The file of rows. Cells that an arm refuses (a budget that buys nothing, a peer that is not installed) are named
        with their reason in ``<name>.refused.json``.
    """
    with hushed():
        suite = load_suite(name, quick, data, out)
    results, refused = out / f"{name}.jsonl", out / f"{name}.refused.json"
    for field, names in {"suite": [suite.name], "task": suite.problems, "arm": ARMS, "phase": PHASES}.items():
        for value in sorted((only or {}).get(field, ())):
            pick(dict.fromkeys(names), value, f"bench: {field}")
    model = Path(suite.model()).name
    rows = read_rows(results) if results.exists() else []
    # Asked again each time: a peer may have been installed since.
    gone: dict[Cell, str] = {}

    def waiting() -> list[Cell]:
        cells = due(suite.name, model, suite.campaigns, ARMS, rows, gone)
        return [cell for cell in cells if _wanted(cell, only or {}) and cell not in running.values()]

    running: dict[Future[Any], Cell] = {}
    began, finished = time.perf_counter(), 0
    todo = waiting()
    if not todo and not any(_wanted(Cell.of(row), only or {}) for row in rows):
        raise GuidedError(
            "bench: no run that is done or due now is one that was asked for (leave a FIELD=VALUE out; what comes "
            "after a sweep of learning rates, on seed 0, is due when that is complete)"
        )
    say(f"{name}: {len(rows)} runs done, {len(todo)} due now (more when a sweep is complete)")
    with _pool(processes, threads, (name, quick, data, out)) as pool:
        while True:
            while todo and len(running) < processes and (limit is None or finished + len(running) < limit):
                cell = todo.pop(0)
                running[pool.submit(_work, cell)] = cell
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                row, reason = _result(future, cell)
                if row is None:
                    gone[cell] = reason
                    cells = [cell.to_dict() | {"reason": reason} for cell, reason in gone.items()]
                    write_json(refused, {"kind": "refused", "version": 1, "cells": cells})
                    say(f"{cell}: {reason}")
                else:
                    append_row(results, row)
                    rows.append(row)
                    finished += 1
                    left = (time.perf_counter() - began) / finished * len(todo)
                    say(
                        f"{cell}: score {row['score']:.0f}, forgetting {_told(row['forgetting'])}, "
                        f"{row['seconds']:.0f} s; {len(todo)} due, about {left / 60:.0f} min"
                    )
            todo = waiting()
    return results


def _result(future: Future[Any], cell: Cell) -> tuple[Json | None, str]:
    try:
        return future.result()
    except BrokenExecutor:
        raise GuidedError(
            f"bench: the process that ran {cell} was killed, perhaps for want of memory (what is done is kept: run the "
            "same command again, with fewer --processes if need be)"
        ) from None


def parse_only(words: list[str]) -> dict[str, set[str]]:
    """Read ``arm=full,lora`` and the like. Raises GuidedError for what is no field of a run, or no value of it."""
    fields = Cell.__dataclass_fields__
    only: dict[str, set[str]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not equals or not values:
            raise GuidedError(f"{word!r}: not FIELD=VALUE (write for example arm=full,lora)")
        kind = pick(fields, name, "bench").type
        only.setdefault(name, set()).update(_value(name, kind, value) for value in values.split(","))
    return only


_READ: dict[str, tuple[Callable[[str], Any], str]] = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "float | None": (lambda value: None if value.lower() == "none" else float(value), "a number or none"),
}
"""How a field of a cell is read, by its type."""


def _value(name: str, kind: str, value: str) -> str:
    """A value as ``_text`` writes that of a cell: ``1e-4`` is ``0.0001``."""
    read, what = _READ[kind]
    with contextlib.suppress(ValueError):
        return _text(read(value))
    raise GuidedError(f"bench: {name}: {value!r} is not {what} (write for example {name}=1)")


def load_suite(name: str, quick: bool, data: Path | None, out: Path) -> Any:
    """Make a suite by name; a model of the suite's own may lie beside the rows in ``out``."""
    from ..suites import fronts, smollm2, testbed

    makers = {
        "testbed": lambda: testbed.suite("quick", testbed.QUICK) if quick else testbed.suite(rows=out),
        "smollm2": lambda: smollm2.suite(data, smollm2.QUICK if quick else ()),
        "testbed-fronts": lambda: fronts.testbed(out, quick),
        "smollm2-fronts": lambda: fronts.smollm2(data, quick),
    }
    return makers[name]()


def _told(forgetting: float | None) -> str:
    return "not finite" if forgetting is None else f"{forgetting:+.4f}"


def _wanted(cell: Cell, only: dict[str, set[str]]) -> bool:
    fields = cell.to_dict()
    return all(_text(fields[name]) in values for name, values in only.items())


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _pool(processes: int, threads: int | None, what: tuple[object, ...]) -> ProcessPoolExecutor:
    # A fresh interpreter each: a forked torch deadlocks.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, initializer=_start, initargs=(threads, what))


def _start(threads: int | None, what: tuple[Any, ...]) -> None:
    threading.Thread(target=_follow_parent, daemon=True).start()
    import torch

    if threads:
        torch.set_num_threads(threads)
    # That an arm has nothing to keep below its first layer is no news here.
    logging.getLogger("guided_ft").setLevel(logging.ERROR)
    with hushed(), contextlib.redirect_stdout(sys.stderr):
        from ..suites.suite import Lab

        _LAB[:] = [Lab(load_suite(*what))]


def _follow_parent() -> None:
    """End with the parent: a pool's workers outlive one that is killed, and would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(cell: Cell) -> tuple[Json | None, str]:
    from .trial import run_cell

    try:
        # BAdam says what it trains next, however little it is asked to say.
        with hushed(), contextlib.redirect_stdout(io.StringIO()):
            return run_cell(_LAB[0], cell), ""
    except GuidedError as error:
        return None, str(error)
