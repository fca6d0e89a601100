"""Make each deliberate fault in a copy of the tree and run the tests that should catch it.

    python tests/mutants/run.py [NAME ...] [--record]

Prints a table, and ends with 1 if a fault lived. One warm process forks for each, so that the seconds that the libraries
take to load are paid once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

import mutants

SECONDS = 300
"""After which the tests of a fault are stopped."""

LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "*.egg-info")


class First:
    """A plugin that notes the first test that failed."""

    found = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.found:
            self.found = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        self.pytest_runtest_logreport(report)


def warm() -> None:
    """Load what is not ours, once."""
    import datasets  # noqa: F401
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import trl  # noqa: F401
    from trl import DPOTrainer, SFTTrainer  # noqa: F401

    torch.set_num_threads(1)
    for name in [name for name in sys.modules if name.split(".")[0] in ("guided_ft", "families")]:
        del sys.modules[name]


def run(copy: Path, tests: tuple[str, ...]) -> tuple[int, str, float]:
    """pytest's exit code (-1: stopped), the first test that failed, and seconds."""
    began = time.perf_counter()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code, told = 70, ""
        try:
            code, told = _pytest(copy, tests)
        finally:
            os.write(writer, told.encode())
            os._exit(code)
    os.close(writer)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.perf_counter() - began > SECONDS:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return -1, "", SECONDS
        time.sleep(0.05)
    with os.fdopen(reader) as pipe:
        return os.waitstatus_to_exitcode(ended[1]), pipe.read(), time.perf_counter() - began


def _pytest(copy: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    import pytest

    os.chdir(copy)
    sys.path[:] = [str(copy), str(copy / "tests" / "tools"), *(p for p in sys.path if str(mutants.ROOT) not in p)]
    os.environ["PYTHONPATH"] = str(copy)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    first = First()
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", f"--rootdir={copy}"]
    return int(pytest.main([*options, *tests], plugins=[first])), first.found


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("names", nargs="*", help="of faults (default: all)")
    options.add_argument("--record", action="store_true", help="keep the sum in tests/results")
    asked = options.parse_args()
    wanted = [mutant for mutant in mutants.mutants() if not asked.names or mutant.name in asked.names]
    warm()
    fates = {}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).resolve() / "tree"
        shutil.copytree(mutants.ROOT, copy, ignore=LEFT_OUT)
        tests = tuple(dict.fromkeys(test for mutant in wanted for test in mutant.tests))
        code, failed, seconds = run(copy, tests)
        print(f"without a fault: {'all pass' if code == 0 else f'{failed} FAILS'}  ({seconds:.0f} s)", flush=True)
        if code:
            return 2
        for mutant in wanted:
            path = mutant.file(copy)
            whole = path.read_text(encoding="utf-8")
            path.write_text(mutant.broken(copy), encoding="utf-8")
            code, by, seconds = run(copy, mutant.tests)
            path.write_text(whole, encoding="utf-8")
            fate = {0: "LIVED", 1: "caught", -1: "STOPPED"}.get(code, f"BROKEN ({code})")
            fates[mutant.name] = fate
            print(f"{fate:8} {mutant.name:58} {seconds:5.1f} s  {by.removeprefix('tests/')}", flush=True)
    caught = sum(fate == "caught" for fate in fates.values())
    print(json.dumps({"faults": len(fates), "caught": caught}))
    if asked.record:
        import figures

        lived = [name for name, fate in fates.items() if fate != "caught"]
        figures.write(
            "mutants", "python tests/mutants/run.py --record", {"faults": len(fates), "caught": caught, "lived": lived}
        )
    return int(caught < len(fates))


if __name__ == "__main__":
    sys.exit(main())
