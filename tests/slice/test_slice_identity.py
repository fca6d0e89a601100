"""Merging and number formats, beyond the laws of ``law_matrix.py``."""

from __future__ import annotations

import copy

import families
import moe
import pytest
import torch
from peft import get_peft_model
from slicing import SELECTIONS, attach, base_tensors, same, slice_layers, slices_of

from guided_ft.anatomy import Anatomy
from guided_ft.slice import SliceConfig

EVERYTHING = f"{SELECTIONS['groups']} {SELECTIONS['neurons']}"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
three_families = pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])


@three_families
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_overlapping_adapters_unmerge_without_a_trace(name, dtype):
    before = base_tensors(families.make(name, dtype))
    # Common rows and columns, and a layer's rows of `down` over a neuron's columns of it.
    model = families.make(name, dtype)
    peft_model = attach(model, "L0.H0 L0.H1 L0.N3 L0.N4", changed=True)
    other = slices_of(model, "L0.H1 L0.H2 L0.N4 L0.N5")
    peft_model.add_adapter("other", SliceConfig(slices=other, init_weights=False))
    layer = Anatomy.of(peft_model.get_base_model()).slices("L0")
    whole = {part.module: {"axis": part.axis, "index": list(part.index)} for part in layer}
    peft_model.add_adapter("whole", SliceConfig(slices=whole, init_weights=False))
    peft_model.base_model.set_adapter(["default", "other", "whole"])
    peft_model.merge_adapter()
    assert max(len(layer.merged_adapters) for layer in slice_layers(peft_model).values()) == 3
    assert not same(base_tensors(peft_model), before)
    peft_model.unmerge_adapter()
    assert same(base_tensors(peft_model), before)


def test_unmerging_what_is_not_merged_only_warns():
    peft_model = attach(families.make("llama"), "L0.H0", changed=True)
    before = base_tensors(peft_model)
    with pytest.warns(UserWarning, match="Already unmerged"):
        peft_model.unmerge_adapter()
    assert same(base_tensors(peft_model), before)


def test_safe_merge_refuses_what_overflows_the_base_dtype():
    peft_model = attach(families.make("llama", torch.float16), "L0.N3", changed=True)
    before = base_tensors(peft_model)
    layers = list(slice_layers(peft_model).values())
    layers[-1].slice_delta["default"].weight.data[0, 0] = 1e5
    with pytest.raises(ValueError, match="NaNs detected"):
        peft_model.merge_adapter(safe_merge=True)
    assert same(base_tensors(peft_model), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_a_merge_rounds_once(name, dtype):
    """To the sum in float32: a change that was rounded first would be added wrongly in the last place."""
    text = "L0.H1 L0.N3 L1.N5" if name != "mixtral" else "L0.H1 L0.E0.N3 L1.E1.N5"
    half = moe.attach(families.make(name, dtype), text, changed=True)
    whole = moe.attach(families.make(name, dtype).float(), text)
    whole.load_state_dict({key: tensor.float() for key, tensor in half.state_dict().items()})
    half.merge_adapter()
    whole.merge_adapter()
    before, after = base_tensors(half), base_tensors(whole)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert torch.equal(tensor, after[key].to(tensor.dtype)), key


@three_families
def test_delta_weight_is_what_merging_adds(name):
    model = families.make(name)
    before = base_tensors(model)
    peft_model = attach(model, EVERYTHING, changed=True)
    plain = copy.deepcopy(peft_model).merge_and_unload()
    for module, layer in slice_layers(peft_model).items():
        added = plain.get_submodule(module).weight - before[f"{module}.weight"]
        assert torch.allclose(layer.get_delta_weight("default"), added, atol=1e-6)


def test_float32_deltas_keep_what_bfloat16_would_lose():
    peft_model = attach(families.make("llama", torch.bfloat16), "L0.N3")
    delta = slice_layers(peft_model)["model.layers.0.mlp.up_proj"].slice_delta["default"].weight
    with torch.no_grad():
        delta += 1
        for _ in range(100):
            delta += 1e-4
    assert torch.allclose(delta, torch.tensor(1.01), atol=1e-5)


@pytest.mark.parametrize("merge", [True, False])
def test_trained_tokens_beside_slices_are_unloaded_too(merge):
    model = families.make("llama")
    config = SliceConfig(slices=slices_of(model, "L1.N3"), init_weights=False, trainable_token_indices=[5, 6])
    peft_model = get_peft_model(model, config)
    base = families.logits(peft_model.get_base_model() if merge else families.make("llama"))
    for name, parameter in peft_model.named_parameters():
        if "trainable_tokens_delta" in name:
            torch.nn.init.normal_(parameter)
    expected = families.logits(peft_model) if merge else base
    plain = peft_model.merge_and_unload() if merge else peft_model.unload()
    assert type(plain.get_input_embeddings()) is torch.nn.Embedding
    torch.testing.assert_close(families.logits(plain), expected)
