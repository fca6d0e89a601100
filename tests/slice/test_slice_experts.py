"""Neurons of experts, beyond the laws of ``law_matrix.py``."""

from __future__ import annotations

import families
import moe
import pytest
import torch
from laws import loss_of
from peft import PeftModel
from slicing import slice_layers

from guided_ft.anatomy import Anatomy
from guided_ft.slice.experts import SliceExperts

EVERYTHING = f"{moe.NEURONS} L0.H0 L0.H1 L1.H2"


def expert_layers(peft_model: PeftModel) -> dict[str, SliceExperts]:
    return {n: layer for n, layer in slice_layers(peft_model).items() if isinstance(layer, SliceExperts)}


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


def test_whole_layer_trains_every_neuron_of_every_expert(moe_family):
    layers = expert_layers(moe.attach(families.make(moe_family), "L1"))
    assert [layer.slice_delta["default"].index.tolist() for layer in layers.values()] == [
        list(range(families.EXPERTS * families.PER_EXPERT))
    ]


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
