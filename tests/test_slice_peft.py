"""What PEFT promises of its own methods holds for the slice adapter too."""

from __future__ import annotations

import copy
import io

import families
import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load, save
from slicing import SELECTIONS, attach, base_tensors, same, slice_layers, slices_of

from guided_ft.slice import SliceConfig

EVERYTHING = f"{SELECTIONS['groups']} {SELECTIONS['neurons']}"
VISIBLE = 1e-3
four_families = pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "opt"])
# Where lm_head is tied to the embedding, a norm stands in for "a module that is trained whole".
SAVED_ALONG = {"llama": "lm_head", "phi3": "lm_head", "gpt2": "ln_f", "opt": "final_layer_norm"}


def with_saved_module(name: str) -> PeftModel:
    model = families.make(name)
    slices = slices_of(model, EVERYTHING)
    return get_peft_model(model, SliceConfig(slices=slices, modules_to_save=[SAVED_ALONG[name]]))


def loss_of(model: torch.nn.Module, seed: int = 1) -> torch.Tensor:
    ids = families.tokens(seed=seed)
    return model(input_ids=ids, labels=ids).loss


def train(model: torch.nn.Module, steps: int = 5) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, seed=step).backward()
        optimizer.step()


# -- loading -----------------------------------------------------------------------------------------------------------
@four_families
def test_loading_without_spare_memory_leaves_nothing_on_the_meta_device(name, tmp_path):
    first, second = attach(families.make(name), EVERYTHING, changed=True), attach(families.make(name), "L0.N9 L1.H0")
    for p in slice_layers(second).values():
        torch.nn.init.normal_(p.slice_delta["default"].weight, std=0.1)
    wanted = {"one": families.logits(first), "two": families.logits(second)}
    first.save_pretrained(tmp_path / "one")
    second.save_pretrained(tmp_path / "two")
    options = {"low_cpu_mem_usage": True}
    again = PeftModel.from_pretrained(families.make(name), tmp_path / "one", adapter_name="one", **options)
    again.load_adapter(tmp_path / "two", adapter_name="two", **options)
    assert not [n for n, t in again.state_dict().items() if t.device.type == "meta"]
    for adapter, expected in wanted.items():
        again.set_adapter(adapter)
        assert torch.equal(families.logits(again), expected)
    again.delete_adapter("one")
    assert torch.equal(families.logits(again), wanted["two"])
    again.unload()
    assert not slice_layers(again)


# -- modules that are trained whole, beside the slices -------------------------------------------------------------------
@four_families
def test_a_module_that_is_saved_along_trains_and_comes_back(name, tmp_path):
    base, before = families.logits(families.make(name)), base_tensors(families.make(name))
    peft_model = with_saved_module(name)
    assert torch.equal(families.logits(peft_model), base)
    trained = {n for n, p in peft_model.named_parameters() if p.requires_grad}
    assert {".slice_delta." in n for n in trained} == {True, False}
    assert {n for n in trained if ".slice_delta." not in n} == {
        n for n, _ in peft_model.named_parameters() if ".modules_to_save.default." in n
    }
    train(peft_model)
    expected = families.logits(peft_model)
    peft_model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(families.make(name), tmp_path)
    assert torch.equal(families.logits(again), expected)
    for n in trained:
        assert torch.equal(again.get_parameter(n), peft_model.get_parameter(n)), n
    whole = next(m for n, m in again.get_base_model().named_modules() if n.endswith(SAVED_ALONG[name]))
    original, moved = whole.original_module.weight, whole.modules_to_save["default"].weight
    assert not torch.equal(original, moved)
    with again.disable_adapter():
        assert torch.equal(families.logits(again), base)
    merged = again.merge_and_unload()
    assert (families.logits(merged) - expected).abs().max() <= 1e-5
    assert merged.state_dict().keys() == families.make(name).state_dict().keys()
    frozen = [n for n, t in base_tensors(merged).items() if torch.equal(t, before[n])]
    assert len(frozen) > len(before) / 3


# -- gradient checkpointing ----------------------------------------------------------------------------------------------
@four_families
@pytest.mark.parametrize("reentrant", [False, True], ids=["new", "reentrant"])
def test_gradient_checkpointing_changes_no_gradient(name, reentrant):
    plain, saving = (attach(families.make(name), EVERYTHING, changed=True).train() for _ in range(2))
    saving.load_state_dict(plain.state_dict())
    if reentrant:
        saving.enable_input_require_grads()
    saving.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert saving.is_gradient_checkpointing
    for model in (plain, saving):
        loss_of(model).backward()
    for module, layer in slice_layers(plain).items():
        expected = layer.slice_delta["default"].weight.grad
        assert expected.abs().max() > 1e-5
        # Not bit-equal in every family: autograd may add the same terms in another order.
        found = slice_layers(saving)[module].slice_delta["default"].weight.grad
        assert (found - expected).abs().max() <= 1e-6, module


# -- copies and state dicts ------------------------------------------------------------------------------------------------
@four_families
def test_a_deep_copy_is_independent(name):
    peft_model = attach(families.make(name), EVERYTHING, changed=True)
    expected = families.logits(peft_model)
    twin = copy.deepcopy(peft_model)
    assert torch.equal(families.logits(twin), expected)
    train(twin, steps=2)
    assert (families.logits(twin) - expected).abs().max() > VISIBLE
    assert torch.equal(families.logits(peft_model), expected)


@four_families
def test_a_state_dict_needs_no_pickle(name):
    peft_model = attach(families.make(name), EVERYTHING, changed=True)
    expected = families.logits(peft_model)
    whole = {n: t.clone() for n, t in peft_model.state_dict().items()}
    twin = attach(families.make(name, seed=7), EVERYTHING)
    twin.load_state_dict(load(save(whole)), strict=True)
    assert torch.equal(families.logits(twin), expected)

    buffer = io.BytesIO()
    torch.save(get_peft_model_state_dict(peft_model), buffer)
    buffer.seek(0)
    fresh = attach(families.make(name), EVERYTHING)
    result = set_peft_model_state_dict(fresh, torch.load(buffer, weights_only=True))
    assert not result.unexpected_keys
    assert torch.equal(families.logits(fresh), expected)


# -- generation and compilation ----------------------------------------------------------------------------------------------
@four_families
def test_generation_uses_the_adapter(name):
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    ids = families.tokens()
    base = families.make(name).generate(input_ids=ids, **options)
    peft_model = attach(families.make(name), EVERYTHING, changed=True).eval()
    for layer in slice_layers(peft_model).values():
        layer.slice_delta["default"].weight.data *= 20
    with torch.no_grad():
        found = peft_model.generate(input_ids=ids, **options)
        # Without a cache of keys and values, one full forward per token.
        step = ids
        for _ in range(6):
            step = torch.cat([step, peft_model(input_ids=step).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, step)
    assert not torch.equal(found, base)
    with peft_model.disable_adapter():
        assert torch.equal(peft_model.generate(input_ids=ids, **options), base)
    merged = peft_model.merge_and_unload()
    assert torch.equal(merged.generate(input_ids=ids, **options), found)


@pytest.mark.slow
@four_families
def test_a_compiled_model_gives_the_same_logits_and_gradients(name):
    peft_model = attach(families.make(name), EVERYTHING, changed=True)
    expected = families.logits(peft_model)
    loss_of(peft_model).backward()
    gradients = {n: p.grad.clone() for n, p in peft_model.named_parameters() if p.grad is not None}
    peft_model.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(peft_model)
    try:
        found = families.logits(compiled)
    except (torch._inductor.exc.InductorError, torch._dynamo.exc.BackendCompilerFailed) as error:
        pytest.skip(f"the compiler does not work on this machine: {str(error).splitlines()[0]}")
    assert (found - expected).abs().max() <= 1e-4
    loss_of(compiled).backward()
    found_gradients = {n: p.grad for n, p in peft_model.named_parameters() if p.grad is not None}
    assert found_gradients.keys() == gradients.keys()
    assert all((found_gradients[n] - gradients[n]).abs().max() <= 1e-4 for n in gradients)


# -- what PEFT keeps to its own methods ----------------------------------------------------------------------------------------
def test_what_does_not_work_says_so(tmp_path):
    peft_model = attach(families.make("llama"), EVERYTHING, changed=True)
    before, expected = base_tensors(peft_model), families.logits(peft_model)
    peft_model.save_pretrained(tmp_path)
    config = SliceConfig(slices=slices_of(families.make("llama"), EVERYTHING))
    peft_model.add_adapter("other", config)
    with pytest.raises(AttributeError, match="add_weighted_adapter"):
        peft_model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "sum")
    with pytest.raises(ValueError, match="Hotswapping only supports LORA but SLICE was passed"):
        hotswap_adapter(peft_model, tmp_path, adapter_name="default")
    with pytest.raises(ValueError, match="'SLICE' is not compatible with the `PeftMixedModel`"):
        get_peft_model(families.make("llama"), config, mixed=True)
    assert torch.equal(families.logits(peft_model), expected)
    assert same(base_tensors(peft_model), before)
