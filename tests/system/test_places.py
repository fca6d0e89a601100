"""Models that are made on this machine: whole or absent, whoever makes them."""

from __future__ import annotations

import json
import warnings

import peft
import pytest
import tiny
import transformers
from families import make as tiny_model
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from guided_ft import GuidedError, SliceConfig, load_model, models
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


def test_a_checkpoint_without_some_weight_is_refused(tmp_path):
    """Transformers would draw it at random."""
    tiny_model("llama").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(GuidedError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight \(1 weights in all"):
        load_model(str(tmp_path))


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(GuidedError, match="cannot be loaded"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_of_no_numbers_is_refused(value, tmp_path):
    """It loads, and every answer would be made of NaN."""
    tiny_model("llama").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 2] = value
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(GuidedError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN or infinity \(get an"):
        load_model(str(tmp_path))


def test_a_sum_that_overflows_is_no_infinity(tmp_path):
    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj.weight.data.fill_(3e38)
    model.save_pretrained(tmp_path)
    load_model(str(tmp_path))


def test_a_weight_of_another_shape_is_one_line(tmp_path, capfd):
    """Transformers tells it in a table and points to that."""
    tiny_model("llama").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        GuidedError, match=r"model\.norm\.weight has shape \(31,\), not \(32,\) \(is config\.json its own"
    ):
        load_model(str(tmp_path))
    assert "REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer.json", {"normalizer": {"type": "none"}}),  # the tokenizers library raises a bare Exception
        ("tokenizer_config.json", {"eos_token": 3}),  # a TypeError of transformers
        ("tokenizer_config.json", {"tokenizer_class": 2.5}),  # an AttributeError
        ("tokenizer_config.json", {"model_max_length": "8"}),  # nothing, until the first text is read
    ],
)
def test_a_damaged_tokenizer_is_one_line_with_a_mend(file, change, tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    data = json.loads((tmp_path / file).read_text(encoding="utf-8")) | change
    (tmp_path / file).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(GuidedError, match=r"\((.*; get an undamaged copy|mend its tokenizer_config.json)\)$") as caught:
        models.load_tokenizer(str(tmp_path))
    assert str(caught.value).isprintable()
