"""Models that are made on this machine: whole or absent, whoever makes them."""

from __future__ import annotations

import warnings

import peft
import pytest
import tiny
import transformers
from families import make as tiny_model
from tqdm import tqdm

from guided_ft import SliceConfig, models
from guided_ft.system import places
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


def test_saving_an_adapter_of_an_embedded_model_asks_no_one_to_look_it_up(tmp_path, monkeypatch):
    monkeypatch.setitem(places.EMBEDDED, "tiny", ("none", "none", "none"))
    tiny_model("llama").save_pretrained(tmp_path / "tiny")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = peft.get_peft_model(models.load_model("tiny"), SliceConfig(target_modules=["o_proj"]))
        peft.get_peft_model_state_dict(model)
        assert [str(w.message) for w in told if w.category is UserWarning] == []
        told.clear()
        model.peft_config["default"].base_model_name_or_path = "another"
        peft.get_peft_model_state_dict(model)
    assert [str(w.message)[:41] for w in told] == ["Could not find a config file in another -"]
