"""``guided-ft localize`` with every scorer, on a real model: which of them run, and for how long.

    python benchmarks/bench_cli.py --out benchmarks/results/cli.jsonl            # resumable; about 10 minutes
    python benchmarks/bench_cli.py --out benchmarks/results/cli.jsonl --table

Each scorer is named on the command line of the quickstart, with 8 examples, and once more in the ways that need other
data: pairs, sets to compare with. Some are asked without the data they need: that must be one line and exit code 2.
The command runs in this process, so that the seconds (of the localize stage, from the run's own record) hold no import.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from bench_localize import Rows

from guided_ft.cli import main as command
from guided_ft.scorers import catalogue

SMALL = ["data.train=8", "data.test=2", "localize.examples=8", "retention=none", "retain=none", "first_layer=0"]

CASES: dict[str, tuple[str, ...]] = {
    **{name: (f"method={name}",) for name in catalogue.CATALOGUE},
    "attribution, pairs": ("method=attribution", "PAIRS", "localize.options.replace=corrupted"),
    "integrated_gradients, pairs": ("method=integrated_gradients", "PAIRS", "localize.options.baseline=corrupted"),
    "eap, pairs": ("method=eap", "PAIRS", "localize.options.replace=corrupted"),
    "ablation of layers, pairs": ("method=ablation", "PAIRS", "localize.options.replace=corrupted", "kinds=[layer]"),
    "attribution, pairs that are missing": ("method=attribution", "localize.options.replace=corrupted"),
    "probe, the model's own text": ("method=probe", "retain=self"),
}
"""What comes after ``localize quickstart``; PAIRS stands for a file with corrupted prompts."""

for _name, _method in catalogue.CATALOGUE.items():
    if _method.against:
        CASES[f"{_name}, a set that is missing"] = CASES[_name]
        CASES[_name] = (*CASES[_name], "AGAINST")

REFUSED = tuple(label for label in CASES if label.endswith("missing"))


def write_files(folder: Path) -> dict[str, list[str]]:
    """Sums with and without a corrupted prompt, and sentences."""
    numbers = [(12 + 7 * i, 31 + 5 * i) for i in range(12)]
    pairs = [
        {"prompt": f"{a} + {b} =", "corrupted_prompt": f"{b} + {a - 1} =", "completion": f" {a + b}"}
        for a, b in numbers
    ]
    texts = [{"text": f"Once there was a {what} who lived by the sea."} for what in ("cat", "dog", "king", "girl")]
    for name, rows in (("pairs", pairs), ("texts", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = ["data.source=file", f"data.path={folder / 'pairs.jsonl'}", "data.name=null", "data.contains=null"]
    return {"PAIRS": [*source, "data.options={}"], "AGAINST": [f"localize.options.against={folder / 'texts.jsonl'}"]}


def ask(arguments: list[str]) -> tuple[int, str]:
    """Exit code and what was printed as an error."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            command(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, errors.getvalue().strip().splitlines()[-1] if code else ""


def measure(rows: Rows) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_files(folder)
        for number, (label, changes) in enumerate(CASES.items()):
            if rows.has(case=label):
                continue
            out = folder / str(number)
            named = [part for change in changes for part in files.get(change, [change])]
            code, said = ask(["localize", "quickstart", f"output={out}", *SMALL, *named, "--quiet"])
            row: dict[str, Any] = {"kind": "cli", "case": label, "code": code, "said": said.replace(name, "FOLDER")}
            if code == 0:
                story = json.loads((out / "run.json").read_text())
                row["seconds"] = story["seconds"]["localize"]
            rows.add(**row)


def table(rows: Rows) -> str:
    lines = ["| `guided-ft localize quickstart` with | seconds |", "| --- | ---: |"]
    lines += [f"| {r['case']} | {r['seconds']:.1f} |" for r in rows.rows if r["code"] == 0]
    lines += ["", "| asked without its data | exit code | what it says |", "| --- | ---: | --- |"]
    return "\n".join(lines + [f"| {r['case']} | {r['code']} | {r['said']} |" for r in rows.rows if r["code"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    rows = Rows(chosen.out)
    if not chosen.table:
        torch.set_num_threads(1)
        measure(rows)
        wrong = [r["case"] for r in rows.rows if (r["code"] != 0) != (r["case"] in REFUSED)]
        if wrong:
            raise SystemExit(f"these went otherwise than they should: {', '.join(wrong)}")
    print(table(rows))


if __name__ == "__main__":
    main()
