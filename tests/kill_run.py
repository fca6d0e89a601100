"""Run a recipe in forked children and kill them at given moments: ``python kill_run.py FOLDER NAME DELAY ...``.

One warm parent forks, so that the seconds the libraries take to load are paid once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

torch.set_num_threads(1)

import tiny_run  # noqa: E402

from guided_ft import run  # noqa: E402
from guided_ft import training as _training  # noqa: E402, F401  (loaded before the forks)


def main(folder: str, name: str, delays: list[float]) -> None:
    asked = tiny_run.recipe(Path(folder), name, control="none", train={"steps": 12, "save_steps": 1})
    for delay in [*delays, None]:
        child = os.fork()
        if child == 0:
            run(asked, quiet=True)
            os._exit(0)
        if delay is not None:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else f"ended {os.WEXITSTATUS(status)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [float(d) for d in sys.argv[3:]])
