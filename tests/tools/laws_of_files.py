"""The laws of what is written to disk, of exports and of ranks. See ``laws.py``."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path

import families
import torch
from laws import DTYPES, MERGED, ROUNDING, VISIBLE, attached, config, deltas, distance, newborn, train, two_adapters
from peft import (
    AutoPeftModelForCausalLM,
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load, load_file, save
from slicing import base_tensors, same, slice_layers
from transformers import AutoModelForCausalLM

from guided_ft.export import merged, to_lora
from guided_ft.slice import SliceConfig


# -- files -------------------------------------------------------------------------------------------------------------
def a_saved_adapter_comes_back_in_the_same_bits(family: str, folder: Path) -> None:
    for dtype in DTYPES[:2]:
        peft_model = attached(family, dtype=dtype)
        expected = families.logits(peft_model)
        peft_model.save_pretrained(folder)
        again = PeftModel.from_pretrained(families.make(family, dtype), folder)
        assert torch.equal(families.logits(again), expected)
        assert not any(p.requires_grad for p in again.parameters())
        assert {p.dtype for p in deltas(again).values()} == {torch.float32}
        state, found = (get_peft_model_state_dict(m) for m in (peft_model, again))
        assert same(found, state)
        assert same(load_file(folder / "adapter_model.safetensors"), state)
        assert json.loads((folder / "adapter_config.json").read_text())["slices"] == config(family).slices


def a_loaded_adapter_trains_on(family: str, folder: Path) -> None:
    peft_model = attached(family)
    peft_model.save_pretrained(folder)
    again = PeftModel.from_pretrained(families.make(family), folder, is_trainable=True)
    assert {id(p) for p in again.parameters() if p.requires_grad} == {id(p) for p in deltas(again).values()}
    train(peft_model)
    train(again)
    assert same(deltas(again), deltas(peft_model))


def loading_leaves_nothing_on_the_meta_device(family: str, folder: Path) -> None:
    expected, saved = {}, {}
    for which in ("all", "other"):
        peft_model = attached(family, which)
        expected[which], saved[which] = families.logits(peft_model), deltas(peft_model)
        peft_model.save_pretrained(folder / which)
    options = {"low_cpu_mem_usage": True}
    again = PeftModel.from_pretrained(families.make(family), folder / "all", adapter_name="all", **options)
    again.load_adapter(folder / "other", adapter_name="other", **options)
    assert not [n for n, t in again.state_dict().items() if t.device.type == "meta"]
    for which in ("other", "all", "other"):
        again.set_adapter(which)
        assert same(deltas(again, which), saved[which])
        # These tensors lie where the file has them, and products of numbers that are aligned otherwise round otherwise.
        assert distance(families.logits(again), expected[which]) <= ROUNDING


def only_selected_adapters_are_saved(family: str, folder: Path) -> None:
    peft_model = two_adapters(family)
    peft_model.save_pretrained(folder, selected_adapters=["other"])
    assert not (folder / "adapter_config.json").exists()
    peft_model.set_adapter("other")
    again = PeftModel.from_pretrained(families.make(family), folder / "other")
    assert torch.equal(families.logits(again), families.logits(peft_model))


def every_door_loads_it(family: str, folder: Path) -> None:
    families.make(family).save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base", attn_implementation="eager")
    peft_model = get_peft_model(base, config(family)).eval()
    expected = families.logits(peft_model)
    assert distance(expected, families.logits(families.make(family))) > VISIBLE
    peft_model.save_pretrained(folder / "adapter")
    for door in (AutoPeftModelForCausalLM, AutoModelForCausalLM):
        again = door.from_pretrained(folder / "adapter", attn_implementation="eager")
        assert slice_layers(again)
        assert torch.equal(families.logits(again), expected), door


def a_state_dict_needs_no_pickle(family: str, folder: Path) -> None:
    peft_model = attached(family)
    expected = families.logits(peft_model)
    whole = {n: t.clone() for n, t in peft_model.state_dict().items()}
    twin = get_peft_model(families.make(family, seed=7), config(family)).eval()
    twin.load_state_dict(load(save(whole)), strict=True)
    assert torch.equal(families.logits(twin), expected)
    buffer = io.BytesIO()
    torch.save(get_peft_model_state_dict(peft_model), buffer)
    buffer.seek(0)
    fresh = newborn(family)
    assert not set_peft_model_state_dict(fresh, torch.load(buffer, weights_only=True)).unexpected_keys
    assert torch.equal(families.logits(fresh), expected)


def a_deep_copy_is_independent(family: str, folder: Path) -> None:
    peft_model = attached(family)
    expected = families.logits(peft_model)
    twin = copy.deepcopy(peft_model)
    assert torch.equal(families.logits(twin), expected)
    train(twin)
    assert distance(families.logits(twin), expected) > VISIBLE
    assert torch.equal(families.logits(peft_model), expected)


# -- leaving -----------------------------------------------------------------------------------------------------------
def a_merged_checkpoint_needs_nothing(family: str, folder: Path) -> None:
    peft_model = attached(family)
    expected, before = families.logits(peft_model), copy.deepcopy(peft_model.state_dict())
    merged(peft_model, folder / "deep" / "model")
    after = peft_model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before), "the model can be used on"
    assert torch.equal(families.logits(peft_model), expected)
    files = {p.suffix for p in (folder / "deep" / "model").iterdir()}
    assert files == {".json", ".safetensors", ".md"}
    names = [n for f in (folder / "deep" / "model").glob("*.safetensors") for n in load_file(f)]
    assert not [n for n in names if "slice" in n or "base_layer" in n]
    again = AutoModelForCausalLM.from_pretrained(folder / "deep" / "model", attn_implementation="eager")
    assert distance(families.logits(again), expected) <= MERGED


def a_lora_computes_the_same(family: str, folder: Path, which: str = "all", **options) -> None:
    peft_model = attached(family, which, **options)
    for p in deltas(peft_model).values():
        p.data *= 5
    expected = families.logits(peft_model)
    assert distance(expected, families.logits(families.make(family))) > 1e-2
    to_lora(peft_model, folder)
    again = PeftModel.from_pretrained(families.make(family), folder).eval()
    assert type(again.peft_config["default"]) is LoraConfig
    adapted = {n: m for n, m in again.get_base_model().named_modules() if hasattr(m, "lora_A")}
    assert adapted.keys() == slice_layers(peft_model).keys()
    assert {m.scaling["default"] for m in adapted.values()} == {1.0}
    written = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert {p.name for p in folder.iterdir()} == written
    assert distance(families.logits(again), expected) <= 1e-4
    # Merging a LoRA uses the stored orientation, which its forward does not.
    assert distance(families.logits(again.merge_and_unload()), expected) <= 1e-4


def a_lora_of_heads_computes_the_same(family: str, folder: Path) -> None:
    a_lora_computes_the_same(family, folder, "heads")


# -- rank --------------------------------------------------------------------------------------------------------------
def a_rank_obeys_the_same_laws(family: str, folder: Path, which: str = "all") -> None:
    base = families.logits(families.make(family))
    assert torch.equal(families.logits(attached(family, which, rank=2, init_weights=True)), base)
    before = base_tensors(families.make(family))
    peft_model = attached(family, which, rank=2)
    assert {name.rpartition(".")[2] for name in deltas(peft_model)} >= {"A", "B"}
    expected = families.logits(peft_model)
    assert distance(expected, base) > VISIBLE
    with peft_model.disable_adapter():
        assert torch.equal(families.logits(peft_model), base)
    for low_memory in (False, True):
        peft_model.save_pretrained(folder / "saved")
        again = PeftModel.from_pretrained(families.make(family), folder / "saved", low_cpu_mem_usage=low_memory)
        assert same(deltas(again), deltas(peft_model))
        assert distance(families.logits(again), expected) <= ROUNDING
    peft_model.merge_adapter(safe_merge=True)
    assert distance(families.logits(peft_model), expected) <= MERGED
    peft_model.unmerge_adapter()
    assert same(base_tensors(peft_model), before)
    for dtype in DTYPES[1:]:
        before = base_tensors(families.make(family, dtype))
        low = attached(family, which, dtype, rank=2)
        low.merge_adapter(safe_merge=True)
        assert not same(base_tensors(low), before)
        low.unmerge_adapter()
        assert same(base_tensors(low), before)
        assert {p.dtype for p in deltas(low).values()} == {torch.float32}
    a_lora_computes_the_same(family, folder / "lora", which, rank=2)


def a_rank_of_heads_obeys_the_same_laws(family: str, folder: Path) -> None:
    a_rank_obeys_the_same_laws(family, folder, "heads")


def a_random_draw_repeats_and_reloads(family: str, folder: Path) -> None:
    """The control: module names and a share; in a mixture of experts the names of the experts too."""
    names = sorted({name.rpartition(".")[2] for name in config(family).slices})

    def drawn(seed: int) -> PeftModel:
        options = {"target_modules": names, "fraction": 0.2, "layers_to_transform": [1], "init_weights": False}
        return get_peft_model(families.make(family), SliceConfig(seed=seed, **options)).eval()

    one, again, other = drawn(3), drawn(3), drawn(4)
    assert one.peft_config["default"].slices == again.peft_config["default"].slices
    assert one.peft_config["default"].slices != other.peft_config["default"].slices
    assert all(".1." in name for name in slice_layers(one))
    expected = families.logits(one)
    one.save_pretrained(folder)
    assert torch.equal(families.logits(PeftModel.from_pretrained(families.make(family), folder)), expected)
