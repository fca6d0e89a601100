"""No key, token or password is among the files that are committed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SECRETS = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a token of the Hub": r"\bhf_[A-Za-z0-9]{30,}",
    "a token of GitHub": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}",
    "a key of AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a key of OpenAI's kind": r"\bsk-[A-Za-z0-9_-]{32,}",
    "a token of PyPI": r"\bpypi-[A-Za-z0-9_-]{50,}",
    "a token of Weights and Biases": r"WANDB_API_KEY\s*[=:]\s*['\"]?[0-9a-f]{40}",
    "a password in an address": r"\bhttps?://[^\s/:@'\"{}$]+:[^\s/@'\"{}$]{6,}@",
}


def found(text: str) -> list[str]:
    return [name for name, pattern in SECRETS.items() if re.search(pattern, text)]


def committed() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    names = listed.stdout.decode().split("\0") if listed.returncode == 0 else []
    # Of an unpacked archive, which git knows nothing of, all files are looked at.
    paths = [ROOT / name for name in names if name] or [p for p in ROOT.rglob("*") if ".venv" not in p.parts]
    return [path for path in paths if path.is_file() and path.stat().st_size < 1 << 20]


def test_nothing_that_is_committed_is_a_secret():
    paths = committed()
    assert len(paths) > 300
    read = {path.relative_to(ROOT): path.read_text(encoding="utf-8", errors="replace") for path in paths}
    assert {str(path): names for path, text in read.items() if (names := found(text))} == {}


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("-----BEGIN RSA ", "PRIVATE KEY-----"), "a private key"),
        (("hf", "_" + "aB3" * 12), "a token of the Hub"),
        (("ghp", "_" + "x1" * 18), "a token of GitHub"),
        (("AKIA", "ABCDEFGHIJKLMNOP"), "a key of AWS"),
        (("sk", "-" + "a1" * 20), "a key of OpenAI's kind"),
        (("pypi", "-" + "a1" * 30), "a token of PyPI"),
        (("WANDB_API", "_KEY=" + "0f" * 20), "a token of Weights and Biases"),
        (("https://me:", "secret99@example.org"), "a password in an address"),
    ],
)
def test_a_secret_would_be_seen(parts, name):
    """Put together here, as this file is committed too."""
    assert found("".join(parts)) == [name]
