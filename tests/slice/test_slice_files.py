"""What a saved adapter holds, and random draws, beyond the laws of ``law_matrix.py``."""

from __future__ import annotations

import json

import families
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from slicing import SELECTIONS, attach, slice_layers, slices_of
from transformers import AutoModelForCausalLM

from guided_ft.slice import SliceConfig

EVERYTHING = f"{SELECTIONS['groups']} {SELECTIONS['neurons']}"
VISIBLE = 1e-3


@pytest.fixture
def saved(tmp_path):
    """A saved base and, beside it, an adapter for it; and the logits of the two together."""
    families.make("llama").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    before = families.logits(base)
    peft_model = attach(base, EVERYTHING, changed=True)
    peft_model.save_pretrained(tmp_path / "adapter")
    expected = families.logits(peft_model)
    assert (expected - before).abs().max() > VISIBLE
    return tmp_path / "adapter", expected


# -- one adapter -------------------------------------------------------------------------------------------------------


def test_the_folder_holds_only_safe_formats_and_only_the_slices(saved):
    folder, _ = saved
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {name.rsplit(".", 1)[1] for name in tensors} == {"index", "weight"}
    slices = slices_of(families.make("llama"), EVERYTHING)
    assert len(tensors) == 2 * len(slices)
    numbers = sum(tensor.numel() for name, tensor in tensors.items() if name.endswith(".weight"))
    assert numbers == sum(32 * len(spec["index"]) for spec in slices.values())


def test_the_configuration_is_explicit_and_readable(saved):
    folder, _ = saved
    data = json.loads((folder / "adapter_config.json").read_text())
    assert data["peft_type"] == "SLICE"
    assert data["slices"]["model.layers.0.mlp.up_proj"] == {"axis": 0, "index": "3,17-18"}
    assert data["slices"]["model.layers.1.self_attn.o_proj"] == {"axis": 1, "index": "16-31"}


def test_rows_that_were_exchanged_after_saving_the_configuration_come_back(saved):
    """The index lives in the tensors; shuffled rows must not be taken for the span that they fill."""
    folder, expected = saved
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    order = torch.tensor([0, 2, 1, *range(3, 16)])
    changed = 0
    for name in [n for n in tensors if n.endswith("q_proj.slice_delta.index")]:
        weight = name.removesuffix("index") + "weight"
        tensors[name], tensors[weight] = tensors[name][order], tensors[weight][order]
        changed += 1
    assert changed == 2
    save_file(tensors, path)
    again = PeftModel.from_pretrained(families.make("llama"), folder)
    assert (families.logits(again) - expected).abs().max() <= 1e-6


# -- random draws ------------------------------------------------------------------------------------------------------
def drawn(name: str, **options) -> dict[str, dict]:
    return get_peft_model(families.make(name), SliceConfig(**options)).peft_config["default"].slices


@pytest.mark.parametrize(
    ("name", "targets", "axis"), [("llama", ["up_proj", "o_proj"], 0), ("gpt2", ["c_fc"], 1), ("phi3", ["qkv_proj"], 0)]
)
def test_random_rows_repeat_with_the_seed_and_differ_without(name, targets, axis):
    one = drawn(name, target_modules=targets, fraction=0.25, seed=3)
    assert one == drawn(name, target_modules=targets, fraction=0.25, seed=3)
    assert one != drawn(name, target_modules=targets, fraction=0.25, seed=4)
    assert len({spec["index"] for spec in one.values()}) == len(one) == 2 * len(targets)
    assert {spec["axis"] for spec in one.values()} == {axis}
    model = families.make(name)
    for module, spec in SliceConfig(slices=one).slices.items():
        rows = model.get_submodule(module).weight.shape[axis]
        peft_model = get_peft_model(families.make(name), SliceConfig(slices={module: spec}))
        assert slice_layers(peft_model)[module].slice_delta["default"].index.numel() == rows // 4


def test_a_draw_takes_at_least_one_row_and_at_most_all():
    assert all("-" not in s["index"] for s in drawn("llama", target_modules=["up_proj"], fraction=1e-6).values())
    assert {s["index"] for s in drawn("llama", target_modules=["up_proj"], fraction=1).values()} == {"0-47"}


def test_a_saved_draw_is_explicit_and_reloads(tmp_path):
    config = SliceConfig(target_modules=["up_proj", "down_proj"], fraction=0.2, seed=5, init_weights=False)
    peft_model = get_peft_model(families.make("llama"), config)
    expected = families.logits(peft_model)
    peft_model.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "adapter_config.json").read_text())
    assert set(data["slices"]) == {f"model.layers.{i}.mlp.{n}_proj" for i in (0, 1) for n in ("up", "down")}
    for name, layer in slice_layers(peft_model).items():
        index = layer.slice_delta["default"].index.tolist()
        assert data["slices"][name] == SliceConfig(slices={name: {"axis": 0, "index": index}}).slices[name]
    again = PeftModel.from_pretrained(families.make("llama"), tmp_path)
    assert torch.equal(families.logits(again), expected)


def test_a_second_draw_beside_an_adapter():
    peft_model = attach(families.make("llama"), "L0.N3", changed=True)
    config = SliceConfig(target_modules=["up_proj"], fraction=0.25, seed=3)
    peft_model.add_adapter("control", config)
    assert config.slices == drawn("llama", target_modules=["up_proj"], fraction=0.25, seed=3)
    indices = {
        n: layer.slice_delta["control"].index.tolist() for n, layer in slice_layers(peft_model).items() if ".up" in n
    }
    assert config.slices == SliceConfig(slices={n: {"axis": 0, "index": i} for n, i in indices.items()}).slices
