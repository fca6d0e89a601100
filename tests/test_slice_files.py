"""Saved adapters come back bit for bit, through every door that PEFT and transformers have; several live together."""

from __future__ import annotations

import json

import families
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from slicing import SELECTIONS, attach, base_tensors, same, slice_layers, slices_of
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_reloaded_adapter_gives_the_same_logits(family, dtype, tmp_path):
    base = families.logits(families.make(family, dtype))
    peft_model = attach(families.make(family, dtype), EVERYTHING, changed=True)
    expected = families.logits(peft_model)
    assert (expected - base).abs().max() > VISIBLE
    peft_model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(families.make(family, dtype), tmp_path)
    assert torch.equal(families.logits(again), expected)
    for name, layer in slice_layers(again).items():
        before, after = slice_layers(peft_model)[name].slice_delta["default"], layer.slice_delta["default"]
        assert after.weight.dtype == torch.float32
        assert torch.equal(after.weight, before.weight)
        assert (after.index.tolist(), after.span) == (before.index.tolist(), before.span)


def test_loading_without_spare_memory(saved):
    folder, expected = saved
    again = PeftModel.from_pretrained(families.make("llama"), folder, low_cpu_mem_usage=True)
    assert torch.equal(families.logits(again), expected)


def test_a_reloaded_adapter_can_train_on(saved):
    folder, _ = saved
    frozen = PeftModel.from_pretrained(families.make("llama"), folder)
    assert not any(p.requires_grad for p in frozen.parameters())
    again = PeftModel.from_pretrained(families.make("llama"), folder, is_trainable=True)
    trainable = {id(p) for p in again.parameters() if p.requires_grad}
    assert trainable == {id(layer.slice_delta["default"].weight) for layer in slice_layers(again).values()}


def test_auto_peft_model(saved):
    folder, expected = saved
    again = AutoPeftModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    assert torch.equal(families.logits(again), expected)


def test_auto_model_on_an_adapter_folder(saved):
    folder, expected = saved
    again = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    assert len(slice_layers(again)) > 0
    assert torch.equal(families.logits(again), expected)


def test_a_merged_model_is_a_plain_checkpoint(saved, tmp_path):
    folder, expected = saved
    merged = PeftModel.from_pretrained(families.make("llama"), folder).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", attn_implementation="eager")
    assert (families.logits(again) - expected).abs().max() <= 1e-5


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


# -- several adapters --------------------------------------------------------------------------------------------------
def test_two_adapters_are_added_switched_and_deleted():
    model = families.make("llama")
    base, before = families.logits(model), base_tensors(model)
    peft_model = attach(model, "L0.H0 L0.N3", changed=True)
    first = families.logits(peft_model)
    config = SliceConfig(slices=slices_of(model, "L0.H1 L0.N3 L1.N5"), init_weights=False)
    peft_model.add_adapter("second", config)
    assert torch.equal(families.logits(peft_model), first), "adding must not activate"

    peft_model.set_adapter("second")
    second = families.logits(peft_model)
    assert (second - first).abs().max() > VISIBLE
    assert (second - base).abs().max() > VISIBLE
    trained = {name for name, p in peft_model.named_parameters() if p.requires_grad}
    assert len(trained) == len(config.slices)
    assert all(".second." in name for name in trained)

    peft_model.set_adapter("default")
    assert torch.equal(families.logits(peft_model), first)
    peft_model.delete_adapter("second")
    assert torch.equal(families.logits(peft_model), first)
    assert not [name for name in peft_model.state_dict() if ".second." in name]
    assert same(base_tensors(peft_model), before)


def test_an_adapter_cannot_be_deleted_while_merged():
    model = families.make("llama")
    before = base_tensors(model)
    peft_model = attach(model, "L0.N3", changed=True)
    peft_model.merge_adapter()
    with pytest.raises(ValueError, match="merged"):
        peft_model.delete_adapter("default")
    peft_model.unmerge_adapter()
    assert same(base_tensors(peft_model), before)


def test_saved_adapters_load_side_by_side(saved, tmp_path):
    folder, expected = saved
    other = attach(families.make("llama"), "L1.H0 L1.N9", changed=True)
    other.save_pretrained(tmp_path / "other")
    alone = families.logits(other)
    both = PeftModel.from_pretrained(families.make("llama"), folder, adapter_name="one")
    both.load_adapter(tmp_path / "other", adapter_name="two")
    for name, wanted in (("two", alone), ("one", expected), ("two", alone)):
        both.set_adapter(name)
        assert torch.equal(families.logits(both), wanted)


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
