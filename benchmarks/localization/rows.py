"""The file of results: what is there is not measured again."""

from __future__ import annotations

import json
from pathlib import Path

from guided_ft.system.files import Json, write_text
from guided_ft.system.machine import machine, versions


class Rows:
    """The results so far, by what identifies them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[Json] = [json.loads(line) for line in lines if line.strip()]

    def find(self, **keys: object) -> Json | None:
        return next((row for row in self.rows if all(row.get(k) == v for k, v in keys.items())), None)

    def has(self, **keys: object) -> bool:
        return self.find(**keys) is not None

    def later(self, **row: object) -> None:
        """Add a row that ``write`` writes, so that rows that belong together come together."""
        self.rows.append({**row, "machine": machine(), "versions": versions()})
        print({k: v for k, v in row.items() if k != "halves"}, flush=True)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in self.rows))

    def add(self, **row: object) -> None:
        self.later(**row)
        self.write()
