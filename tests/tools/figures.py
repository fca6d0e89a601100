"""What the long checks found, kept as ``tests/results/NAME.json``: made by a command, and read by ``tests/README.md``."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from guided_ft.system.files import write_json
from guided_ft.system.machine import machine, versions

RESULTS = Path(__file__).parents[1] / "results"


def write(name: str, command: str, found: dict[str, Any]) -> None:
    """Keep the figures of a check, with how to make them again and on what they were made."""
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    data = {"kind": "result", "version": 1, "command": command, "day": day, "found": found}
    write_json(RESULTS / f"{name}.json", data | {"machine": machine(), "versions": versions()})


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
