"""What ``pip install .`` installs is all that the commands need: built and used away from the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import guided_ft

ROOT = Path(guided_ft.__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content."""
    wheels = pytest.importorskip("hatchling.builders.wheel")
    folder = tmp_path_factory.mktemp("wheel")
    [wheel] = wheels.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def asked(installed: Path, cwd: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_readmes_commands_run_from_what_is_installed(installed, tmp_path):
    rows = [{"prompt": f"{i}?", "completion": " yes"} for i in range(20)]
    (tmp_path / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = asked(installed, tmp_path, "-c", "import guided_ft, sys; print(guided_ft.__file__)")
    assert Path(where.strip()).is_relative_to(installed)
    command = ("-m", "guided_ft")
    assert asked(installed, tmp_path, *command, "check", "tickets.jsonl", "model=gpt2").startswith("ok: tickets: sft ")
    assert "quickstart" in asked(installed, tmp_path, *command, "recipes")
    assert asked(installed, tmp_path, *command, "check", "quickstart", "model=gpt2").startswith("ok: quickstart: ")


def test_the_command_is_announced(installed):
    [told] = installed.glob("*.dist-info/entry_points.txt")
    assert "guided-ft = guided_ft.cli:main" in told.read_text()
