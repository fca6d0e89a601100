"""Give seeded nonsense to whatever reads something: is each refused in one line, with nothing run and nothing written?

    python tests/tools/fuzz.py recipes|data|artifacts [--count N] [--seed S] [--record]

Prints one JSON line for each that went wrong, and a sum; ``--record`` keeps it in ``tests/results``. A case is made of
the seed and its number alone, so ``--only NUMBER`` repeats one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import guarding

from guided_ft.errors import GuidedError

KINDS = {"recipes": 560, "data": 200, "artifacts": 1000}
"""What is fuzzed, and how often where nothing else is asked for."""


MENDED = re.compile(r"(\)|: (use|write|choose|make|start|resume|give|run) .*|no such (file|folder))$")
"""How a line ends that says what to do, or leaves no doubt about it."""


@dataclass(frozen=True)
class Case:
    """One piece of nonsense.

    Args:
        name: what it is, in words.
        call: gives it to its reader.
        lines: how many lines may refuse it; None: one for each thing that is wrong with it.
        left: looks afterwards for what it should not have left; says what, or nothing.
    """

    name: str
    call: Callable[[], Any]
    lines: int | None = 1
    left: Callable[[], str] = str


def in_cache(folder: Path) -> None:
    """Let what libraries keep for themselves lie where it may."""
    os.environ["GUIDED_FT_CACHE"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "cache")


def outcome(case: Case, *folders: Path) -> tuple[str, str]:
    """``refused``, ``read`` or ``WRONG``, and what was said."""
    said, noise = io.StringIO(), io.StringIO()
    with guarding.guarded(*folders) as guard, contextlib.redirect_stderr(said), contextlib.redirect_stdout(noise):
        try:
            case.call()
            fate, text = "read", ""
        except GuidedError as error:
            fate, text = "refused", str(error)
        except SystemExit as end:
            fate = {0: "read", 2: "refused"}.get(end.code, "WRONG")  # type: ignore[call-overload]
            text = said.getvalue().strip() if fate == "refused" else f"exit code {end.code}"
        except BaseException as error:
            fate, text = "WRONG", f"{type(error).__name__}: {error}"
    if guard.seen:
        return "WRONG", f"it did {guard.seen[0]}"
    if left := case.left():
        return "WRONG", f"it left {left}"
    lines = text.split("\n")
    if fate == "refused" and ((case.lines is not None and len(lines) != case.lines) or not all(map(good, lines))):
        return "WRONG", f"said {text!r}"
    return fate, text


def good(line: str) -> bool:
    """Whether a line can be read by a person: short, printable, no traceback, and with a mend where none is plain."""
    return len(line) < 500 and line.isprintable() and "Traceback" not in line and MENDED.search(line) is not None


def run(kind: str, folder: Path, count: int, seed: int, only: int | None = None) -> tuple[Counter[str], list[dict]]:
    """The fates of ``count`` cases that were refused or went wrong, and those that went wrong."""
    module = importlib.import_module(f"fuzz_{kind}")
    make = module.maker(folder)
    fates: Counter[str] = Counter()
    wrong: list[dict] = []
    number = 0 if only is None else only
    while fates["refused"] + fates["WRONG"] < count and number < 20 * count + 100:
        case = make(number, random.Random(f"{kind} {seed} {number}"))
        fate, text = outcome(case, *module.writable(folder))
        fates[fate] += 1
        if fate == "WRONG" or only is not None:
            wrong.append({"number": number, "case": case.name, "fate": fate, "said": text[:300]})
            if only is not None:
                break
        number += 1
    return fates, wrong


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("kind", choices=KINDS)
    options.add_argument("--count", type=int)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", type=int, help="the number of one case")
    options.add_argument("--record", action="store_true", help="keep the sum in tests/results")
    asked = options.parse_args()
    count = asked.count or KINDS[asked.kind]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        in_cache(folder)
        fates, wrong = run(asked.kind, folder, count, asked.seed, asked.only)
    for row in wrong:
        print(json.dumps(row))
    found = {"refused": fates["refused"], "read": fates["read"], "wrong": fates["WRONG"]}
    print(json.dumps(found))
    if asked.record:
        import figures

        figures.write(f"fuzz-{asked.kind}", f"python tests/tools/fuzz.py {asked.kind} --record", found)
    return int(bool(wrong)) if asked.only is None else 0


if __name__ == "__main__":
    sys.exit(main())
