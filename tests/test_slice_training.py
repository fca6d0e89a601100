"""Laws 1 and 2: training a slice is masked full fine-tuning, and nothing else moves."""

from __future__ import annotations

from collections.abc import Iterable

import families
import pytest
import torch
from slicing import SELECTIONS, attach, base_tensors, same, slice_layers, slices_of
from torch import nn
from torch.autograd import gradcheck

from guided_ft.anatomy import Anatomy
from guided_ft.slice import SliceLayer
from guided_ft.slice.layer import ColumnDelta, RowDelta

STEPS = 20


def loss_of(model: nn.Module, seed: int = 1) -> torch.Tensor:
    ids = families.tokens(seed=seed)
    return model(input_ids=ids, labels=ids).loss


def compact(layer: SliceLayer, matrix: torch.Tensor, axis: int, index: list[int]) -> torch.Tensor:
    """The chosen part of a stored matrix in the shape of the layer's delta."""
    part = matrix.index_select(axis, torch.tensor(index))
    return part.T if layer.transposed else part


# -- law 1: gradients --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", SELECTIONS)
def test_gradient_of_a_slice_is_the_masked_full_gradient(family, kind):
    full = families.make(family)
    loss_of(full).backward()
    model = families.make(family)
    slices = slices_of(model, SELECTIONS[kind])
    peft_model = attach(model, SELECTIONS[kind])
    loss_of(peft_model).backward()
    layers = slice_layers(peft_model)
    assert set(layers) == set(slices)
    for name, layer in layers.items():
        expected = compact(layer, full.get_submodule(name).weight.grad, **slices[name])
        gradient = layer.slice_delta["default"].weight.grad
        assert gradient.shape == expected.shape
        assert expected.abs().max() > 1e-4
        assert (gradient - expected).abs().max() <= 1e-6, name


def test_only_the_deltas_have_gradients(family):
    peft_model = attach(families.make(family), SELECTIONS["groups"])
    loss_of(peft_model).backward()
    deltas = {id(layer.slice_delta["default"].weight) for layer in slice_layers(peft_model).values()}
    assert {id(p) for p in peft_model.parameters() if p.requires_grad} == deltas
    assert {id(p) for p in peft_model.parameters() if p.grad is not None} == deltas


@pytest.mark.parametrize("index", [[2, 3, 4], [0, 2, 5], [5], list(range(6))], ids=str)
@pytest.mark.parametrize("cls", [RowDelta, ColumnDelta])
def test_gradcheck(cls, index):
    """Rows of a [6, 4] matrix or columns of a [4, 6] one, with the gradients of weight, input and base output."""
    by_row = cls is RowDelta
    features_in, features_out = (4, 6) if by_row else (6, 4)
    shape = (len(index), features_in) if by_row else (features_out, len(index))
    delta = cls(index, shape, torch.float64, torch.device("cpu"))
    assert (delta.span is not None) == (index != [0, 2, 5])
    torch.manual_seed(0)
    x, y, w = (
        torch.randn(s, dtype=torch.float64, requires_grad=True)
        for s in ((2, 3, features_in), (2, 3, features_out), shape)
    )

    def forward(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        # The layer adds in place to a fresh tensor, which the clone stands for.
        return torch.func.functional_call(delta, {"weight": w}, (x, y.clone()))

    assert gradcheck(forward, (x, y, w))
    with torch.no_grad():
        delta.weight.copy_(w)
        dense = delta.dense(features_out, features_in)
        assert dense.count_nonzero() == w.numel()
        assert torch.allclose(forward(x, y, w), y + x @ dense.T, atol=1e-12)


# -- law 1: training ---------------------------------------------------------------------------------------------------
def train(model: nn.Module, parameters: Iterable[nn.Parameter], weight_decay: float = 0.0, mask=None) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=weight_decay)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, seed=100 + step).backward()
        if mask is not None:
            mask()
        optimizer.step()


def train_slices(model: nn.Module, text: str, weight_decay: float = 0.0):
    peft_model = attach(model, text)
    train(peft_model, [p for p in peft_model.parameters() if p.requires_grad], weight_decay)
    return peft_model


def train_masked(model: nn.Module, slices: dict[str, dict]) -> None:
    model.requires_grad_(False)
    weights = {name: model.get_submodule(name).weight.requires_grad_() for name in slices}

    def mask() -> None:
        for name, weight in weights.items():
            keep = torch.zeros_like(weight).index_fill_(slices[name]["axis"], torch.tensor(slices[name]["index"]), 1)
            weight.grad *= keep

    train(model, weights.values(), mask=mask)


@pytest.mark.parametrize("kind", SELECTIONS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_training_a_slice_is_masked_full_fine_tuning(name, kind):
    full, before = families.make(name), base_tensors(families.make(name))
    train_masked(full, slices_of(full, SELECTIONS[kind]))
    peft_model = train_slices(families.make(name), SELECTIONS[kind])
    for module, layer in slice_layers(peft_model).items():
        effective = layer.get_base_layer().weight + layer.get_delta_weight("default")
        target = full.get_submodule(module).weight
        assert (target - before[f"{module}.weight"]).abs().max() > 1e-3, "twenty steps moved nothing"
        assert (effective - target).abs().max() <= 1e-5, module


# -- law 2 -------------------------------------------------------------------------------------------------------------
def test_weight_decay_moves_no_base_tensor(family):
    before = base_tensors(families.make(family))
    peft_model = train_slices(
        families.make(family), f"{SELECTIONS['groups']} {SELECTIONS['neurons']}", weight_decay=0.1
    )
    assert all(layer.slice_delta["default"].weight.abs().max() > 1e-3 for layer in slice_layers(peft_model).values())
    assert same(base_tensors(peft_model), before)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_columns_keep_only_the_inputs_that_they_need(name):
    model = attach(families.make(name), SELECTIONS["neurons"])
    down = model.base_model.model.get_submodule(Anatomy.of(model).down_module(0))
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    x = torch.randn(2, 9, families.INTERMEDIATE, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        down(x).sum().backward()
    weights = {id(p) for p in down.parameters()}
    chosen = len(down.slice_delta["default"].index)
    activations = [t for t in kept if t.is_floating_point() and id(t) not in weights and t.numel() % 18 == 0]
    assert [t.numel() for t in activations if t.numel() != down.base_layer.weight.numel()] == [18 * chosen]
