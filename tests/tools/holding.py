"""Another process that works in a folder."""

from __future__ import annotations

import contextlib
import subprocess
import sys

HOLD = "import sys; from pathlib import Path; from guided_ft.system import sole; \
print(sole.hold(Path(sys.argv[1])), flush=True); sys.stdin.read()"


@contextlib.contextmanager
def another(folder):
    """A process that tries to hold the folder, its number, and what it was told."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process, process.stdout.readline().strip()
        process.kill()
