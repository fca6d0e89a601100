"""Models that are made on this machine: whole or absent, whoever makes them."""

from __future__ import annotations

import pytest

from guided_ft.models import cached


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GUIDED_FT_CACHE", str(tmp_path))


def test_made_once(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "weights").write_text("1")

    assert cached("it", make) == cached("it", make) == tmp_path / "it"
    assert len(made) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["it"]


def test_nothing_stays_of_a_failure(tmp_path):
    def make(folder):
        (folder / "weights").write_text("half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        cached("it", make)
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_faster_is_right(tmp_path):
    def make(folder):
        (folder / "weights").write_text("mine")
        (tmp_path / "it").mkdir()
        (tmp_path / "it" / "weights").write_text("theirs")

    assert (cached("it", make) / "weights").read_text() == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["it"]
