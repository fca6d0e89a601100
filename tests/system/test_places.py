"""Models that are made on this machine: whole or absent, whoever makes them."""

from __future__ import annotations

import pytest
import tiny
import transformers
from families import make as tiny_model
from tqdm import tqdm

from guided_ft.system.places import _convert, cached


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


def test_converting_is_quiet_when_nobody_watches(tmp_path, monkeypatch, capsys):
    def read(*args, **kwargs):
        for _ in tqdm(range(3), desc="Converting"):
            pass
        return tiny_model("llama")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", read)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *a, **k: tiny.tokenizer())
    _convert(tmp_path, "model.gguf", tmp_path / "made")
    assert capsys.readouterr().err == ""
    assert (tmp_path / "made" / "model.safetensors").is_file()
