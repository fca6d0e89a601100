"""Run a recipe whole, and again in children that are killed when a file appears: ``python kill_run.py FOLDER FILE ...``.

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
from guided_ft.pipeline import training as _training  # noqa: E402, F401  (loaded before the forks)


def main(folder: str, files: list[str]) -> None:
    _run(folder, "whole", [])
    _run(folder, "killed", files)


def _run(folder: str, name: str, files: list[str]) -> None:
    asked = tiny_run.recipe(Path(folder), name, control="none", train={"steps": 12, "save_steps": 1})
    for file in [*files, None]:
        child = os.fork()
        if child == 0:
            run(asked, quiet=True)
            os._exit(0)
        print(_fate(child, None if file is None else Path(folder) / name / file), flush=True)


def _fate(child: int, file: Path | None) -> str:
    while True:
        ended, status = os.waitpid(child, os.WNOHANG if file else 0)
        if ended:
            return f"ended {os.waitstatus_to_exitcode(status)}"
        if file.exists():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "killed"
        time.sleep(0.0005)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
