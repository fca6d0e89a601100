"""The heavy part of a comparison, in a process of its own for each arm, so that memory is measured for each alone.

``python -m guided_ft.pipeline.compare.worker HOME NAME`` does what is shared (``base``) or the missing cells of an arm,
and says on stdout, one JSON object a line, what it has done. The process ends when its parent does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import GuidedError
from ...recipe.recipe import Recipe
from ...system.files import Json, read_json, write_json
from .asked import Asked
from .base import NAME as BASE
from .base import Base, prepare
from .cell import cells, run_cell

REQUEST = "asked.json"

Tell = Callable[[Json], None]
"""Takes what is told: ``{"say": text}`` for people, ``{"done": cell}``, and how a worker ended (``ended_by``)."""

ENDS = {"error", "os_error", "out_of_memory"}
"""The events with which a worker ends."""


def write_request(asked: Asked, home: Path) -> None:
    """Put what is asked for where workers find it, and the next call too."""
    data = {"arms": asked.arms, "rates": asked.rates, "seeds": asked.seeds, "quick": asked.quick}
    data |= {"chosen": asked.chosen, "recipe": asked.recipe.to_dict()}
    write_json(home / REQUEST, {"kind": "comparison request", "version": 1} | data)


def read_request(home: Path) -> Asked | None:
    """What was asked for last; None if nothing was, or it cannot be read."""
    try:
        return _requested(home)
    except (GuidedError, KeyError, TypeError):
        return None


def _requested(home: Path) -> Asked:
    """What the parent has just written. What only the parent has registered is a GuidedError here."""
    data = read_json(home / REQUEST, "comparison request")
    arms, rates, seeds = (tuple(data[key]) for key in ("arms", "rates", "seeds"))
    recipe = Recipe.from_dict(data["recipe"], "compare: in a process of its own (isolated=False needs none)")
    return Asked(recipe, arms, rates, seeds, bool(data["quick"]), bool(data["chosen"]))


def work(home: Path, name: str, trust: bool, tell: Tell) -> None:
    """Do what is shared, or the cells of an arm that are not done."""
    from ...system.progress import hushed
    from .. import stages

    asked = _requested(home)
    with hushed():
        if name == BASE:
            prepare(asked, home, trust, lambda text: tell({"say": text}))
            return
        base = Base.load(home)
        assert base is not None, "the base is prepared before the cells"
        run = stages.Run(base.settled, trust)
        for cell in cells(asked, base):
            if cell.arm == name and cell.result(home, base) is None:
                run_cell(run, base, cell, home)
                tell({"done": cell.name})


def apart(home: Path, name: str, trust: bool, tell: Tell) -> None:
    """``work`` in a process of its own.

    Raises:
        GuidedError: what the worker refused.
        OSError: what the machine refused the worker, such as a full disk.
        MemoryError: the worker ran out of memory, or the system ended it.
        KeyboardInterrupt: somebody has stopped it.
    """
    command = [sys.executable, "-m", __name__, str(home), name, *(["--trust-remote-code"] if trust else [])]
    refused: Json = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                event = _event(line)
                if event is None:
                    # What a library prints.
                    tell({"say": line.rstrip("\n")})
                elif ENDS & event.keys():
                    refused = event
                else:
                    tell(event)
            # Not before it has ended: leaving the block closes its stdin, by which it takes us for gone.
            process.wait()
        except BaseException:
            process.terminate()
            raise
    if "error" in refused:
        raise GuidedError(refused["error"])
    if "os_error" in refused:
        raise OSError(*refused["os_error"])
    if refused or process.returncode == -signal.SIGKILL:
        raise MemoryError(f"the process of {name} ran out of memory")
    if process.returncode in (-signal.SIGTERM, -signal.SIGINT, 130):
        raise KeyboardInterrupt
    if process.returncode:
        raise RuntimeError(f"the process of {name} ended with exit code {process.returncode} (its words are above)")


def _event(line: str) -> Json | None:
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict):
            return found
    return None


def ended_by(error: Exception) -> Json | None:
    """The event that tells an error to the parent; None for one that is a fault of ours, and stays a traceback."""
    from ...scorers.memory import is_out_of_memory

    if isinstance(error, GuidedError):
        return {"error": str(error)}
    if is_out_of_memory(error):
        return {"out_of_memory": True}
    if isinstance(error, OSError):
        place = error.filename2 or error.filename
        return {"os_error": [error.errno, error.strerror or str(error), str(place) if place else None]}
    return None


def main(arguments: list[str]) -> int:
    _end_with_parent()
    home, name, *rest = arguments
    try:
        with _for_events() as tell:
            try:
                work(Path(home), name, bool(rest), tell)
            except Exception as error:
                event = ended_by(error)
                if event is None:
                    raise
                tell(event)
                return 2
    except KeyboardInterrupt:
        return 130
    return 0


@contextlib.contextmanager
def _for_events() -> Iterator[Tell]:
    """Say events on stdout, and nothing else there: what libraries print goes to stderr."""
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        os.dup2(2, 1)
        yield lambda event: print(json.dumps(event), file=out, flush=True)


def _end_with_parent() -> None:
    """A parent that is gone, however it went, has closed its end of stdin."""

    def watch() -> None:
        # Not through sys.stdin: its lock would still be held when Python ends.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
