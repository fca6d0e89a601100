"""What ``import guided_ft`` alone reaches: README and model cards write it so."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

import guided_ft

REACHED = {
    "export.to_lora": "guided_ft.export.lora",
    "load_model": "guided_ft.models",
    "load_tokenizer": "guided_ft.task.tokenizer",
}


@pytest.mark.parametrize("name", REACHED)
def test_a_fresh_import_reaches(name):
    code = f"import guided_ft; print(guided_ft.{name}.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [REACHED[name]]


def test_every_public_name_is_there_and_no_other():
    assert all(getattr(guided_ft, name) is not None for name in guided_ft.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        guided_ft.nothing  # noqa: B018


def test_every_dependency_is_pinned():
    """What CI installs is one version each, of all that is declared."""
    root = Path(guided_ft.__file__).parents[1]
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.+]+(; .*)?", line)] == []
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in lines}
    installed = [each for each in requires("guided-ft") or () if not re.search("extra == .(bench|eval)", each)]
    names = {re.match(r"[\w-]+", each)[0].lower().replace("_", "-") for each in installed}
    assert {"torch", "sympy", "pytest"} <= names
    assert names - pinned == set()
