"""The program itself: as a process of its own, with nothing heavy imported before a recipe is right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


def program(*arguments: str, cwd: Path, code: str = "import guided_ft.__main__ as m; m.main()") -> Any:
    report = (
        "import sys, atexit; heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets'};"
        "atexit.register(lambda: print('heavy:', sorted(heavy & set(sys.modules))));"
    )
    return subprocess.run(
        [sys.executable, "-c", report + code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [("--help", 0), ("run --help", 0), ("check bad.yaml", 2), ("run bad.yaml", 2), ("check quickstart", 0), ("rnu", 2)],
)
def test_nothing_heavy_is_imported_before_the_recipe_is_right(tmp_path: Path, arguments: str, code: int) -> None:
    (tmp_path / "bad.yaml").write_text("select: {budgt: 1%}\ndata: {name: x}\n")
    done = program(*arguments.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, "heavy: []"), done.stderr
    if code == 2:
        assert (done.stdout.count("\n"), done.stderr.count("\n")) == (1, 1)
    if "bad.yaml" in arguments:
        assert done.stderr == "bad.yaml: select.budgt: unknown key (did you mean 'budget'?)\n"


def test_reading_a_recipe_in_python_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "from guided_ft import Recipe; Recipe.load('quickstart', ['steps=5']).save('a.yaml'); Recipe.load('a.yaml')"
    done = program(cwd=tmp_path, code=code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "heavy: []\n", "")


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "guided_ft", "check", "no.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY)},
        timeout=60,
        check=False,
    )
    said = "no.yaml: cannot be read: No such file or directory (check the path)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
