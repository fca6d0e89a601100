"""Laws 1 to 3 for neurons of experts: masked full fine-tuning, nothing else moves, no trace when it is off or undone."""

from __future__ import annotations

import families
import moe
import pytest
import torch
from peft import PeftModel, get_peft_model
from slicing import base_tensors, same, slice_layers
from test_slice_training import loss_of, train

from guided_ft.anatomy import Anatomy
from guided_ft.slice import SliceConfig
from guided_ft.slice.experts import SliceExperts

EVERYTHING = f"{moe.NEURONS} L0.H0 L0.H1 L1.H2"
VISIBLE = 1e-3
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

every_selection = pytest.mark.parametrize("kind", moe.SELECTIONS)


def expert_layers(peft_model: PeftModel) -> dict[str, SliceExperts]:
    return {n: layer for n, layer in slice_layers(peft_model).items() if isinstance(layer, SliceExperts)}


# -- law 1 -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_gradient_of_a_neuron_is_the_masked_full_gradient(moe_family, implementation):
    full, model = (families.make(moe_family) for _ in range(2))
    for m in (full, model):
        m.set_experts_implementation(implementation)
    loss_of(full).backward()
    anatomy = Anatomy.of(model)
    peft_model = moe.attach(model, moe.NEURONS)
    loss_of(peft_model).backward()
    layers = expert_layers(peft_model)
    assert set(layers) == {anatomy.experts_module(i) for i in (0, 1)}
    for module, layer in layers.items():
        delta = layer.slice_delta["default"]
        assert delta.up.grad.shape == (len(delta.index), 2, families.HIDDEN)
        for i, number in enumerate(delta.index.tolist()):
            neuron = anatomy.component("neuron", int(module.split(".")[2]), number)
            for gradient, part in (
                (delta.up.grad[i], anatomy.family.up[0].module),
                (delta.down.grad[i], anatomy.family.down),
            ):
                part = moe.part_of(anatomy, neuron, part)
                expected = moe.cut(full.get_parameter(part.module).grad, part)
                # The gate's row comes first in both layouts, and every row is as wide as the model.
                expected = expected if expected.shape[-1] == families.HIDDEN else expected.T
                assert expected.abs().max() > 1e-5, neuron
                assert (gradient - expected).abs().max() <= 1e-6, neuron


def test_only_the_deltas_have_gradients(moe_family):
    peft_model = moe.attach(families.make(moe_family), EVERYTHING)
    loss_of(peft_model).backward()
    deltas = {id(p) for layer in slice_layers(peft_model).values() for p in layer.slice_delta["default"].parameters()}
    assert {id(p) for p in peft_model.parameters() if p.requires_grad} == deltas
    assert {id(p) for p in peft_model.parameters() if p.grad is not None} == deltas


def test_an_expert_without_tokens_has_a_gradient_of_zero(moe_family):
    """None would let the optimizer skip the step, and make processes wait for each other for ever."""
    model = families.make(moe_family)
    peft_model = moe.attach(model, "L0.E1.N3 L1.E1.N3")
    for layer in expert_layers(peft_model).values():
        layer.register_forward_pre_hook(lambda m, args: (args[0], torch.where(args[1] == 1, 2, args[1]), args[2]))
    loss_of(peft_model).backward()
    for layer in expert_layers(peft_model).values():
        for parameter in layer.slice_delta.parameters():
            assert parameter.grad is not None
            assert not parameter.grad.any()


def train_masked(model: torch.nn.Module, text: str) -> None:
    model.requires_grad_(False)
    masks = moe.mask_of(model, text)
    weights = {n: model.get_parameter(n).requires_grad_() for n in masks}

    def mask() -> None:
        for n, weight in weights.items():
            weight.grad *= masks[n]

    train(model, weights.values(), mask=mask)


@every_selection
def test_training_is_masked_full_fine_tuning(moe_family, kind):
    full, before = families.make(moe_family), base_tensors(families.make(moe_family))
    train_masked(full, moe.SELECTIONS[kind])
    peft_model = moe.attach(families.make(moe_family), moe.SELECTIONS[kind])
    train(peft_model, [p for p in peft_model.parameters() if p.requires_grad])
    peft_model.merge_adapter()
    trained = base_tensors(peft_model)
    masks = moe.mask_of(full, moe.SELECTIONS[kind])
    for n, target in base_tensors(full).items():
        if n in masks:
            assert (target - before[n]).abs().max() > 1e-3, "twenty steps moved nothing"
        assert (trained[n] - target).abs().max() <= 1e-5, n


def test_whole_layer_trains_every_neuron_of_every_expert(moe_family):
    layers = expert_layers(moe.attach(families.make(moe_family), "L1"))
    assert [layer.slice_delta["default"].index.tolist() for layer in layers.values()] == [
        list(range(families.EXPERTS * families.PER_EXPERT))
    ]


# -- law 2 -------------------------------------------------------------------------------------------------------------
def test_weight_decay_moves_no_base_tensor(moe_family):
    before = base_tensors(families.make(moe_family))
    peft_model = moe.attach(families.make(moe_family), EVERYTHING)
    train(peft_model, [p for p in peft_model.parameters() if p.requires_grad], weight_decay=0.1)
    assert all(
        p.abs().max() > 1e-3 for layer in slice_layers(peft_model).values() for p in layer.slice_delta.parameters()
    )
    assert same(base_tensors(peft_model), before)


# -- law 3 -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_at_birth_and_disabled_the_logits_are_those_of_the_base(moe_family, dtype):
    base = families.logits(families.make(moe_family, dtype))
    assert torch.equal(families.logits(moe.attach(families.make(moe_family, dtype), EVERYTHING)), base)
    peft_model = moe.attach(families.make(moe_family, dtype), moe.NEURONS, changed=True)
    changed = families.logits(peft_model)
    assert (changed - base).abs().max() > VISIBLE
    with peft_model.disable_adapter():
        assert torch.equal(families.logits(peft_model), base)
    assert torch.equal(families.logits(peft_model), changed)


def test_every_neuron_has_an_effect(moe_family):
    peft_model = moe.attach(families.make(moe_family), moe.NEURONS, changed=True)
    changed = families.logits(peft_model)
    for layer in expert_layers(peft_model).values():
        for parameter in layer.slice_delta.parameters():
            for row in parameter.data:
                kept = row.clone()
                row.zero_()
                assert (families.logits(peft_model) - changed).abs().max() > 1e-6
                row.copy_(kept)


@every_selection
def test_merged_logits(moe_family, kind):
    base = families.logits(families.make(moe_family))
    peft_model = moe.attach(families.make(moe_family), moe.SELECTIONS[kind], changed=True)
    before = families.logits(peft_model)
    assert (before - base).abs().max() > VISIBLE
    peft_model.merge_adapter()
    assert (families.logits(peft_model) - before).abs().max() <= 1e-5
    peft_model.unmerge_adapter()
    assert torch.equal(families.logits(peft_model), before)
    plain = peft_model.merge_and_unload()
    assert not slice_layers(plain)
    assert (families.logits(plain) - before).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_merging_writes_exactly_the_anatomys_slices_and_unmerging_leaves_no_trace(moe_family, dtype):
    before = base_tensors(families.make(moe_family, dtype))
    peft_model = moe.attach(families.make(moe_family, dtype), moe.NEURONS, changed=True)
    masks = moe.mask_of(families.make(moe_family), moe.NEURONS)
    for layer in expert_layers(peft_model).values():
        # Large enough that no number is rounded away.
        for parameter in layer.slice_delta.parameters():
            parameter.data.fill_(1.0)
    peft_model.merge_adapter()
    merged = base_tensors(peft_model)
    assert masks
    for n, tensor in merged.items():
        moved = tensor != before[n]
        assert torch.equal(moved, masks[n].bool()) if n in masks else not moved.any(), n
    peft_model.unmerge_adapter()
    assert same(base_tensors(peft_model), before)


def two_adapters(name: str, dtype: torch.dtype = torch.float32) -> PeftModel:
    """Both change neurons 3 and 4 of expert 1; each also others."""
    model = families.make(name, dtype)
    peft_model = moe.attach(model, "L0.E0.N1 L0.E1.N3 L0.E1.N4", changed=True)
    config = SliceConfig(slices=moe.config_of(model, "L0.E1.N3 L0.E1.N4 L0.E2.N5"), init_weights=False)
    peft_model.add_adapter("other", config)
    peft_model.base_model.set_adapter(["default", "other"])
    return peft_model


def test_adapters_that_share_neurons_act_as_the_sum_of_their_changes(moe_family):
    """A neuron is not linear in its weights: the effects of two changes of one neuron do not add up."""
    before = base_tensors(families.make(moe_family))
    peft_model = two_adapters(moe_family)
    both = families.logits(peft_model)
    peft_model.merge_adapter()
    assert (families.logits(peft_model) - both).abs().max() <= 1e-5
    peft_model.unmerge_adapter()
    assert same(base_tensors(peft_model), before)
    for one in ("default", "other"):
        peft_model.set_adapter(one)
        assert (families.logits(peft_model) - both).abs().max() > VISIBLE


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_overlapping_adapters_unmerge_without_a_trace(dtype):
    before = base_tensors(families.make("gpt_oss", dtype))
    peft_model = two_adapters("gpt_oss", dtype)
    peft_model.merge_adapter()
    assert not same(base_tensors(peft_model), before)
    peft_model.unmerge_adapter()
    assert same(base_tensors(peft_model), before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_safe_merge_refuses_and_leaves_all_weights_alone(moe_family, bad):
    peft_model = moe.attach(families.make(moe_family), EVERYTHING, changed=True)
    before = base_tensors(peft_model)
    list(expert_layers(peft_model).values())[-1].slice_delta["default"].down.data[-1, -1] = bad
    for merge in (peft_model.merge_adapter, peft_model.merge_and_unload):
        with pytest.raises(ValueError, match=r"NaNs detected in the merged weights\. The adapter default"):
            merge(safe_merge=True)
        assert same(base_tensors(peft_model), before)


def test_deltas_are_float32_except_on_a_float64_base():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for autocast in (True, False):
            model = families.make("mixtral", dtype)
            config = SliceConfig(slices=moe.config_of(model, moe.NEURONS))
            peft_model = get_peft_model(model, config, autocast_adapter_dtype=autocast)
            found = {p.dtype for layer in expert_layers(peft_model).values() for p in layer.slice_delta.parameters()}
            assert found == {torch.float64 if dtype == torch.float64 else torch.float32}


def test_gradient_checkpointing_changes_nothing(moe_family):
    gradients = []
    for checkpointing in (False, True):
        peft_model = moe.attach(families.make(moe_family), EVERYTHING, changed=False).train()
        if checkpointing:
            peft_model.enable_input_require_grads()
            peft_model.gradient_checkpointing_enable({"use_reentrant": False})
        loss_of(peft_model).backward()
        gradients.append({n: p.grad for n, p in peft_model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    assert all((gradients[0][n] - gradients[1][n]).abs().max() <= 1e-6 for n in gradients[0])


def test_autocast_works():
    peft_model = moe.attach(families.make("mixtral"), EVERYTHING)
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(peft_model).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in peft_model.parameters() if p.requires_grad)


def test_the_change_has_no_single_matrix():
    peft_model = moe.attach(families.make("mixtral"), "L0.E0.N1")
    [layer] = expert_layers(peft_model).values()
    assert not layer.supports_lora_conversion()
    with pytest.raises(ValueError, match="is no single matrix"):
        layer.get_delta_weight("default")
