"""Merging into a quantized base, taking the merge back bit by bit, and leaving with a plain checkpoint or a LoRA."""

from __future__ import annotations

import copy
import re

import families
import pytest
import torch
from peft import PeftModel, get_peft_model
from slicing import attach, same, slice_layers, slices_of
from transformers import AutoModelForCausalLM

from guided_ft import Anatomy, Plan, Selection
from guided_ft.errors import GuidedError
from guided_ft.export import merged, to_lora
from guided_ft.slice import SliceConfig
from guided_ft.slice.storage import is_quantized, storage_of

pytest.importorskip("bitsandbytes")

from quantized import KINDS, load, logits, make, numbers, plain_twin, stored

CHOICE = "L0.H0 L0.H1 L0.N3 L0.N17 L0.N18 L1.H2 L1.N5"
VISIBLE = 1e-2
# Both compute with the same numbers in float32, in another order: rounding is all that may differ.
NEAR = 1e-4
quantizations = pytest.mark.parametrize("kind", KINDS)
# GPT-2's weights lie the other way round, until they are quantized.
two_families = pytest.mark.parametrize("name", ["llama", "gpt2"])


def changed(name: str, kind: str, folder, text: str = CHOICE, scale: float = 5) -> PeftModel:
    model = load(name, kind, folder)
    torch.manual_seed(1)
    peft_model = get_peft_model(model, SliceConfig(slices=slices_of(model, text), init_weights=False)).train()
    for key, parameter in peft_model.named_parameters():
        parameter.data *= scale if ".slice_delta." in key else 1
    return peft_model


# -- reading and writing codes -------------------------------------------------------------------------------------------
@quantizations
@two_families
def test_a_weight_is_read_as_what_its_codes_stand_for(name, kind, tmp_path):
    model = load(name, kind, tmp_path)
    for module in slices_of(make(name), CHOICE):
        layer = model.get_submodule(module)
        assert is_quantized(layer.weight)
        full = storage_of(layer).read(layer)
        assert full.shape == make(name).get_submodule(module).weight.shape
        wanted = numbers(layer).T if name == "gpt2" else numbers(layer)
        assert torch.allclose(full, wanted, rtol=1e-6 if kind == "int8" else 0, atol=0)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_writing_what_was_there_changes_no_code(kind, tmp_path):
    """Scales that are quantized themselves are the exception: they are found anew."""
    model = load("llama", kind, tmp_path)
    before = stored(model)
    layer = model.get_submodule("model.layers.0.mlp.down_proj")
    storage, index = storage_of(layer), torch.tensor([0, 5, 6])
    kept = storage.write(layer, 1, index, storage.read(layer).index_select(1, index))
    assert same(stored(model), before)
    assert kept[0] is not layer.weight


def test_another_quantization_is_refused_by_name():
    layer = torch.nn.Linear(4, 4)
    layer.weight = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    said = "a weight of type Parameter is quantized in an unknown way (known: Params4bit, Int8Params)"
    with pytest.raises(GuidedError, match=f"^{re.escape(said)}$"):
        storage_of(layer)


# -- merging -------------------------------------------------------------------------------------------------------------
@quantizations
@two_families
def test_merging_rounds_the_sum_to_codes_as_bitsandbytes_does(name, kind, tmp_path):
    import bitsandbytes

    peft_model = changed(name, kind, tmp_path)
    wanted = {}
    for module, layer in slice_layers(peft_model).items():
        old = layer.get_base_layer()
        delta = layer.get_delta_weight("default")
        total = numbers(old) + (delta.T if name == "gpt2" else delta)
        assert (total - numbers(old)).abs().max() > VISIBLE
        if kind == "int8":
            new = bitsandbytes.nn.Linear8bitLt(old.in_features, old.out_features, False, has_fp16_weights=False)
            new.weight = bitsandbytes.nn.Int8Params(total.half(), requires_grad=False, has_fp16_weights=False)
        else:
            new = bitsandbytes.nn.LinearNF4(
                old.in_features, old.out_features, False, compress_statistics=kind == "nf4-double"
            )
            new.load_state_dict({"weight": total})
        wanted[module] = numbers(new.to("cpu"))
    peft_model.merge_adapter()
    for module, expected in wanted.items():
        found = numbers(slice_layers(peft_model)[module].get_base_layer())
        # Rounding to float16 first may tip a code over.
        assert (found - expected).abs().max() <= (0.02 * expected.abs().max() if kind == "int8" else 1e-6), module
    plain = peft_model.merge_and_unload()
    assert not slice_layers(plain)
    assert set(stored(plain)) == set(stored(load(name, kind, tmp_path)))


@quantizations
@two_families
@pytest.mark.parametrize("ran", [False, True], ids=["fresh", "after a forward pass"])
def test_unmerging_leaves_no_trace(name, kind, ran, tmp_path):
    peft_model = changed(name, kind, tmp_path)
    expected = logits(peft_model) if ran else None
    before = stored(peft_model)
    peft_model.merge_adapter(safe_merge=True)
    assert not same(stored(peft_model), before)
    found = logits(peft_model)
    peft_model.unmerge_adapter()
    assert same(stored(peft_model), before)
    if ran:
        assert torch.equal(logits(peft_model), expected)
        with peft_model.disable_adapter():
            base = logits(peft_model)
        # Eight bits are enough to see the adapter, four are not always: what it adds may round to the same code.
        assert (found - base).abs().max() > VISIBLE
        assert (found - expected).abs().max() < (expected - base).abs().max()
    peft_model.merge_adapter()
    with peft_model.disable_adapter():
        assert torch.equal(logits(peft_model), logits(load(name, kind, tmp_path)))
    assert same(stored(peft_model), before)


@quantizations
def test_overlapping_adapters_unmerge_without_a_trace(kind, tmp_path):
    peft_model = changed("llama", kind, tmp_path, "L0.H0 L0.H1 L0.N3 L0.N4")
    slices = slices_of(make("llama"), "L0.H1 L0.N4 L0.N5")
    peft_model.add_adapter("other", SliceConfig(slices=slices, init_weights=False))
    peft_model.base_model.set_adapter(["default", "other"])
    before = stored(peft_model)
    twin = copy.deepcopy(peft_model)
    for model in (peft_model, twin):
        model.merge_adapter()
        layers = slice_layers(model).values()
        assert all(set(layer.merged_adapters) == set(layer.slice_delta) for layer in layers)
        assert {len(layer.merged_adapters) for layer in layers} == {1, 2}
    assert not same(stored(peft_model), before)
    merged_twin = stored(twin)
    peft_model.unmerge_adapter()
    assert same(stored(peft_model), before)
    assert same(stored(twin), merged_twin), "a deep copy has codes of its own"
    twin.unmerge_adapter()
    assert same(stored(twin), before)


@quantizations
def test_a_safe_merge_refuses_and_leaves_all_codes_alone(kind, tmp_path):
    peft_model = changed("llama", kind, tmp_path)
    before = stored(peft_model)
    list(slice_layers(peft_model).values())[-1].slice_delta["default"].weight.data[-1, -1] = float("nan")
    for merge in (peft_model.merge_adapter, peft_model.merge_and_unload):
        with pytest.raises(ValueError, match="NaNs detected in the merged weights"):
            merge(safe_merge=True)
        assert same(stored(peft_model), before)


def test_a_safe_merge_refuses_what_overflows_eight_bits_float16(tmp_path):
    peft_model = changed("llama", "int8", tmp_path)
    slice_layers(peft_model)["model.layers.0.mlp.up_proj"].slice_delta["default"].weight.data[0, 0] = 1e5
    with pytest.raises(ValueError, match="NaNs detected"):
        peft_model.merge_adapter(safe_merge=True)


# -- leaving ---------------------------------------------------------------------------------------------------------------
@quantizations
@two_families
def test_the_merged_export_of_a_quantized_base_is_a_plain_checkpoint(name, kind, tmp_path):
    peft_model = changed(name, kind, tmp_path)
    expected = logits(peft_model)
    with peft_model.disable_adapter():
        assert (logits(peft_model) - expected).abs().max() > VISIBLE
    merged(peft_model, tmp_path / "merged")
    assert "quantization_config" not in (tmp_path / "merged" / "config.json").read_text()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert [type(m) for m in again.modules()] == [type(m) for m in make(name).modules()]
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert (logits(again) - expected).abs().max() <= NEAR


def test_an_export_knows_what_it_cannot_read(tmp_path):
    peft_model = attach(make("llama"), CHOICE, changed=True)
    peft_model.get_base_model().is_quantized = True
    said = "export: the base is quantized in an unknown way (known: nf4, fp4, int8 of bitsandbytes)"
    with pytest.raises(GuidedError, match=f"^{re.escape(said)}$"):
        merged(peft_model, tmp_path / "merged")
    assert slice_layers(peft_model)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_lora_leaves_a_quantized_base_too(name, kind, tmp_path):
    model = load(name, kind, tmp_path)
    plan = Plan(Selection.parse(CHOICE, Anatomy.of(model)), "lora", rank=2)
    peft_model = plan.attach(model).train()
    torch.manual_seed(1)
    for key, parameter in peft_model.named_parameters():
        parameter.data += 0.2 * torch.randn_like(parameter) if ".lora_" in key else 0
    expected = logits(peft_model)
    with peft_model.disable_adapter():
        assert (logits(peft_model) - expected).abs().max() > VISIBLE
    merged(peft_model, tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits(again) - expected).abs().max() <= NEAR


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_all_active_adapters_leave_and_no_other(kind, tmp_path):
    peft_model = changed("llama", kind, tmp_path, "L0.H0 L0.H1 L0.N3 L0.N4")
    for name, text in (("other", "L0.H1 L0.N4 L1.N5"), ("third", "L0.N4 L1.N7")):
        slices = slices_of(make("llama"), text)
        peft_model.add_adapter(name, SliceConfig(slices=slices, init_weights=False))
    every = {}
    for active in (["default", "other", "third"], ["default", "other"]):
        peft_model.base_model.set_adapter(active)
        every[len(active)] = logits(peft_model)
    assert (every[3] - every[2]).abs().max() > 10 * NEAR
    merged(peft_model, tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits(again) - every[2]).abs().max() <= NEAR


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_modules_that_are_trained_whole_leave_too(kind, tmp_path):
    model = load("llama", kind, tmp_path)
    slices = slices_of(model, CHOICE)
    config = SliceConfig(slices=slices, modules_to_save=["lm_head"], init_weights=False)
    peft_model = get_peft_model(model, config).train()
    before = logits(peft_model)
    head = next(p for n, p in peft_model.named_parameters() if "lm_head" in n and p.requires_grad)
    head.data += 0.1 * torch.randn_like(head)
    expected = logits(peft_model)
    assert (expected - before).abs().max() > VISIBLE
    merged(peft_model, tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits(again) - expected).abs().max() <= NEAR


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_bfloat16_base_leaves_in_bfloat16(kind, tmp_path):
    model = load("llama", kind, tmp_path, torch.bfloat16)
    exact = attach(plain_twin("llama", model), CHOICE, changed=True).train()
    peft_model = attach(model, CHOICE, changed=True).train()
    deltas = {n: p for n, p in exact.named_parameters() if p.requires_grad}
    for name, parameter in peft_model.named_parameters():
        if parameter.requires_grad:
            parameter.data *= 5
            deltas[name].data.copy_(parameter.data)
    wanted = logits(exact)
    error = (logits(peft_model) - wanted).abs().max()
    merged(peft_model, tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").train()
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    # Its weights are rounded once more, to the dtype that everything else is rounded to.
    assert (logits(again) - wanted).abs().max() <= 2 * error


@quantizations
def test_a_broken_adapter_is_not_written_and_the_model_stays(kind, tmp_path):
    peft_model = changed("llama", kind, tmp_path)
    before = stored(peft_model)
    list(slice_layers(peft_model).values())[-1].slice_delta["default"].weight.data[-1, -1] = float("inf")
    with pytest.raises(ValueError, match=r"NaNs detected in the merged weights\. The adapter default"):
        merged(peft_model, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert same(stored(peft_model), before)
    assert slice_layers(peft_model)


@quantizations
@two_families
def test_what_is_merged_into_codes_is_saved_and_loaded_again(name, kind, tmp_path):
    peft_model = changed(name, kind, tmp_path)
    base = logits(load(name, kind, tmp_path))
    plain = peft_model.merge_and_unload(safe_merge=True)
    expected = logits(plain)
    assert (expected - base).abs().max() > VISIBLE
    plain.save_pretrained(tmp_path / "unloaded")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "unloaded", device_map="cpu").train()
    assert same(stored(again), stored(plain))
    assert torch.equal(logits(again), expected)


def test_an_export_needs_its_adapter_not_merged(tmp_path):
    peft_model = changed("llama", "nf4", tmp_path)
    peft_model.merge_adapter()
    said = "export: an adapter is merged into quantized weights (call unmerge_adapter() first)"
    with pytest.raises(GuidedError, match=f"^{re.escape(said)}$"):
        merged(peft_model, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@quantizations
@two_families
def test_the_lora_export_computes_the_same_on_either_base(name, kind, tmp_path):
    peft_model = changed(name, kind, tmp_path)
    expected = logits(peft_model)
    to_lora(peft_model, tmp_path / "lora")
    again = PeftModel.from_pretrained(load(name, kind, tmp_path), tmp_path / "lora")
    assert (logits(again) - expected).abs().max() <= 1e-4
    twin = PeftModel.from_pretrained(plain_twin(name, load(name, kind, tmp_path)), tmp_path / "lora")
    assert (logits(twin) - expected).abs().max() <= NEAR


# -- a bfloat16 base -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_bfloat16_base_has_float32_deltas_and_bfloat16_outputs(kind, tmp_path):
    model = load("llama", kind, tmp_path, torch.bfloat16)
    peft_model = attach(model, CHOICE, changed=True)
    deltas = {p.dtype for layer in slice_layers(peft_model).values() for p in layer.slice_delta.parameters()}
    assert deltas == {torch.float32}
    out = peft_model(input_ids=families.tokens(), labels=families.tokens())
    assert out.logits.dtype == torch.bfloat16
    out.loss.backward()
    trained = [p for p in peft_model.parameters() if p.requires_grad]
    assert all(p.grad.dtype == torch.float32 and p.grad.abs().max() > 0 for p in trained)
    before = stored(peft_model)
    peft_model.merge_adapter()
    assert not same(stored(peft_model), before)
    peft_model.unmerge_adapter()
    assert same(stored(peft_model), before)
