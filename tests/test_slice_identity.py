"""Law 3: at birth and when disabled the adapter is not there; merging adds it and unmerging leaves no trace."""

from __future__ import annotations

import copy
import warnings

import families
import pytest
import torch
from peft import get_peft_model
from slicing import SELECTIONS, attach, base_tensors, same, slice_layers, slices_of

from guided_ft.anatomy import Anatomy
from guided_ft.slice import SliceConfig

EVERYTHING = f"{SELECTIONS['groups']} {SELECTIONS['neurons']}"
VISIBLE = 1e-3
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
three_families = pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])


def two_adapters(model: torch.nn.Module, one: str, other: str):
    peft_model = attach(model, one, changed=True)
    peft_model.add_adapter("other", SliceConfig(slices=slices_of(model, other), init_weights=False))
    peft_model.base_model.set_adapter(["default", "other"])
    return peft_model


# -- initial and disabled ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_at_birth_the_logits_are_those_of_the_base(family, dtype):
    base = families.logits(families.make(family, dtype))
    assert base.dtype == dtype
    assert torch.equal(families.logits(attach(families.make(family, dtype), EVERYTHING)), base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_disabled_the_logits_are_those_of_the_base(family, dtype):
    base = families.logits(families.make(family, dtype))
    peft_model = attach(families.make(family, dtype), EVERYTHING, changed=True)
    changed = families.logits(peft_model)
    assert (changed - base).abs().max() > VISIBLE
    with peft_model.disable_adapter():
        assert torch.equal(families.logits(peft_model), base)
    assert torch.equal(families.logits(peft_model), changed)


def test_every_part_of_a_selection_has_an_effect(family):
    base = families.logits(families.make(family))
    peft_model = attach(families.make(family), EVERYTHING, changed=True)
    for name, layer in slice_layers(peft_model).items():
        for other in slice_layers(peft_model).values():
            other.enable_adapters(other is layer)
        assert (families.logits(peft_model) - base).abs().max() > 1e-5, name


# -- merging -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", SELECTIONS)
def test_merged_logits(family, kind):
    base = families.logits(families.make(family))
    peft_model = attach(families.make(family), SELECTIONS[kind], changed=True)
    before = families.logits(peft_model)
    assert (before - base).abs().max() > VISIBLE
    peft_model.merge_adapter()
    assert (families.logits(peft_model) - before).abs().max() <= 1e-5
    peft_model.unmerge_adapter()
    assert torch.equal(families.logits(peft_model), before)
    plain = peft_model.merge_and_unload()
    assert type(plain) is type(families.make(family))
    assert not slice_layers(plain)
    assert (families.logits(plain) - before).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", SELECTIONS)
def test_merging_writes_the_slices_and_unmerging_leaves_no_trace(family, kind, dtype):
    before = base_tensors(families.make(family, dtype))
    model = families.make(family, dtype)
    slices = slices_of(model, SELECTIONS[kind])
    peft_model = attach(model, SELECTIONS[kind], changed=True)
    peft_model.merge_adapter()
    for name, tensor in base_tensors(peft_model).items():
        spec = slices.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        moved = (tensor != before[name]).nonzero()
        touched = sorted(set(moved[:, spec["axis"]].tolist())) if spec else []
        assert touched == (spec["index"] if spec else []), name
        assert spec or not len(moved), name
    peft_model.unmerge_adapter()
    assert same(base_tensors(peft_model), before)


@three_families
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_overlapping_adapters_unmerge_without_a_trace(name, dtype):
    before = base_tensors(families.make(name, dtype))
    # Common rows and columns, and a layer's rows of `down` over a neuron's columns of it.
    peft_model = two_adapters(families.make(name, dtype), "L0.H0 L0.H1 L0.N3 L0.N4", "L0.H1 L0.H2 L0.N4 L0.N5")
    layer = Anatomy.of(peft_model.get_base_model()).slices("L0")
    whole = {part.module: {"axis": part.axis, "index": list(part.index)} for part in layer}
    peft_model.add_adapter("whole", SliceConfig(slices=whole, init_weights=False))
    peft_model.base_model.set_adapter(["default", "other", "whole"])
    peft_model.merge_adapter()
    assert max(len(layer.merged_adapters) for layer in slice_layers(peft_model).values()) == 3
    assert not same(base_tensors(peft_model), before)
    peft_model.unmerge_adapter()
    assert same(base_tensors(peft_model), before)


@three_families
def test_overlapping_adapters_merge_to_their_sum(name):
    peft_model = two_adapters(families.make(name), "L0.H0 L0.H1 L0.N3 L0.N4", "L0.H1 L0.H2 L0.N4 L0.N5")
    both = families.logits(peft_model)
    peft_model.merge_adapter()
    assert (families.logits(peft_model) - both).abs().max() <= 1e-5
    peft_model.unmerge_adapter()
    peft_model.set_adapter("default")
    assert (families.logits(peft_model) - both).abs().max() > VISIBLE


def test_merging_twice_is_merging_once():
    peft_model = attach(families.make("llama"), EVERYTHING, changed=True)
    before = base_tensors(peft_model)
    peft_model.merge_adapter()
    once = base_tensors(peft_model)
    assert not same(once, before)
    with pytest.warns(UserWarning, match="All adapters are already merged"):
        peft_model.merge_adapter()
    assert same(base_tensors(peft_model), once)
    peft_model.unmerge_adapter()
    assert same(base_tensors(peft_model), before)


def test_unmerging_what_is_not_merged_only_warns():
    peft_model = attach(families.make("llama"), "L0.H0", changed=True)
    before = base_tensors(peft_model)
    with pytest.warns(UserWarning, match="Already unmerged"):
        peft_model.unmerge_adapter()
    assert same(base_tensors(peft_model), before)


def test_disabling_a_merged_adapter_gives_the_base_back():
    base = families.logits(families.make("llama"))
    peft_model = attach(families.make("llama"), EVERYTHING, changed=True)
    peft_model.merge_adapter()
    assert (families.logits(peft_model) - base).abs().max() > VISIBLE
    with peft_model.disable_adapter():
        assert torch.equal(families.logits(peft_model), base)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["first", "last"])
def test_safe_merge_refuses_and_leaves_all_weights_alone(bad, where):
    peft_model = attach(families.make("llama"), EVERYTHING, changed=True)
    before = base_tensors(peft_model)
    layers = slice_layers(peft_model)
    broken = list(layers.values())[0 if where == "first" else -1]
    broken.slice_delta["default"].weight.data[-1, -1] = bad
    for merge in (peft_model.merge_adapter, peft_model.merge_and_unload):
        with pytest.raises(
            ValueError, match=r"NaNs detected in the merged weights\. The adapter default seems to be broken"
        ):
            merge(safe_merge=True)
        assert same(base_tensors(peft_model), before)
        assert set(slice_layers(peft_model)) == set(layers)
        assert not any(layer.merged for layer in layers.values())


def test_safe_merge_of_sound_adapters_is_merge():
    peft_model = attach(families.make("llama"), EVERYTHING, changed=True)
    twin = copy.deepcopy(peft_model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peft_model.merge_adapter()
        twin.merge_adapter(safe_merge=True)
    assert same(base_tensors(peft_model), base_tensors(twin))
    twin.unmerge_adapter()
    safe = twin.merge_and_unload(safe_merge=True)
    assert same(base_tensors(safe), base_tensors(peft_model))


def test_safe_merge_refuses_what_overflows_the_base_dtype():
    peft_model = attach(families.make("llama", torch.float16), "L0.N3", changed=True)
    before = base_tensors(peft_model)
    layers = list(slice_layers(peft_model).values())
    layers[-1].slice_delta["default"].weight.data[0, 0] = 1e5
    with pytest.raises(ValueError, match="NaNs detected"):
        peft_model.merge_adapter(safe_merge=True)
    assert same(base_tensors(peft_model), before)


@three_families
def test_delta_weight_is_what_merging_adds(name):
    model = families.make(name)
    before = base_tensors(model)
    peft_model = attach(model, EVERYTHING, changed=True)
    plain = copy.deepcopy(peft_model).merge_and_unload()
    for module, layer in slice_layers(peft_model).items():
        added = plain.get_submodule(module).weight - before[f"{module}.weight"]
        assert torch.allclose(layer.get_delta_weight("default"), added, atol=1e-6)


# -- dtypes ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_deltas_are_float32_except_on_a_float64_base(dtype):
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    for autocast in (True, False):
        model = families.make("llama", dtype)
        config = SliceConfig(slices=slices_of(model, EVERYTHING), init_weights=False)
        peft_model = get_peft_model(model, config, autocast_adapter_dtype=autocast)
        layers = slice_layers(peft_model).values()
        assert {layer.slice_delta["default"].weight.dtype for layer in layers} == {expected}
        assert {layer.get_base_layer().weight.dtype for layer in layers} == {dtype}
        assert families.logits(peft_model).dtype == dtype


def test_float32_deltas_keep_what_bfloat16_would_lose():
    peft_model = attach(families.make("llama", torch.bfloat16), "L0.N3")
    delta = slice_layers(peft_model)["model.layers.0.mlp.up_proj"].slice_delta["default"].weight
    with torch.no_grad():
        delta += 1
        for _ in range(100):
            delta += 1e-4
    assert torch.allclose(delta, torch.tensor(1.01), atol=1e-5)
