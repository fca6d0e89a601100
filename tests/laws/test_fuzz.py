"""Seeded nonsense in small: each piece is refused in one line, and nothing is run or written. See ``tools/fuzz.py``."""

from __future__ import annotations

import pickle

import fuzz
import guarding
import pytest

from guided_ft.errors import GuidedError

COUNTS = {"recipes": (120, 0), "data": (40, 1), "artifacts": (80, 1)}
"""So many are refused, or go wrong, with this seed; ``python tests/tools/fuzz.py`` takes more."""


@pytest.mark.parametrize(
    "kind", ["recipes", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("data", "artifacts"))]
)
def test_nonsense_is_refused_in_one_line(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("GUIDED_FT_CACHE", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    count, seed = COUNTS[kind]
    fates, wrong = fuzz.run(kind, tmp_path, count, seed)
    assert wrong == []
    assert fates["refused"] == count
    # Not everything is refused for a reason that lies elsewhere.
    assert fates["read"] > 0


def _error(text: str) -> None:
    raise GuidedError(text)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda folder: _error("one\ntwo"), "said"),
        (lambda folder: _error("x.json: not UTF-8 text"), "said"),
        (lambda folder: _error("Traceback (most recent call last)"), "said"),
        (lambda folder: 1 / 0, "ZeroDivisionError"),
        (lambda folder: (folder / "x").write_text("x"), "it did open"),
        (lambda folder: exec(compile("1", "evil", "exec")), "it did exec"),  # noqa: S102
        (lambda folder: pickle.loads(pickle.dumps(print)), "it did pickle.find_class"),  # noqa: S301
        (lambda folder: __import__("os").system("true"), "it did os.system"),
        (lambda folder: __import__("socket").getaddrinfo("localhost", 1), "it did socket.getaddrinfo"),
    ],
)
def test_what_goes_wrong_is_seen(call, said, tmp_path):
    fate, text = fuzz.outcome(fuzz.Case("x", lambda: call(tmp_path)), tmp_path / "elsewhere")
    assert fate == "WRONG"
    assert text.startswith(said)


def test_what_is_allowed_is_not_noted(tmp_path):
    with guarding.guarded(tmp_path) as guard:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "x").write_text("x")
        (tmp_path / "in" / "x").rename(tmp_path / "y")
    assert guard.seen == []
