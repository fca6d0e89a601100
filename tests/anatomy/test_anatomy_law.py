"""Law 4: the anatomy proves itself, family by family, on the model's own arithmetic.

Zeroing what the map calls a component's columns must equal silencing the component in the forward pass, and the
gradient of one component alone must land on exactly the rows that the map gives it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import families
import pytest
import torch
from torch import nn

from guided_ft.anatomy import Anatomy, Component, Slice

TOLERANCE = 1e-6
VISIBLE = 1e-4
# Enough tokens that OPT's ReLU leaves no neuron silent on all of them.
TOKENS = families.tokens(rows=16)


@pytest.fixture
def model(family) -> nn.Module:
    return families.make(family)


@pytest.fixture
def any_model(any_family) -> nn.Module:
    """With experts too: their attention is an ordinary one (for their neurons see ``test_anatomy_experts.py``)."""
    return families.make(any_family)


@contextmanager
def silenced(model: nn.Module, module: str, units: range) -> Iterator[None]:
    """Zero some entries of a module's input while the block runs."""

    def zero(_module: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        x = args[0].clone()
        x[..., units.start : units.stop] = 0
        return (x,)

    handle = model.get_submodule(module).register_forward_pre_hook(zero)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def zeroed(model: nn.Module, parts: list[Slice], *, bias: bool = False) -> Iterator[None]:
    """Zero slices of weights (and, for rows, of biases) while the block runs."""
    kept = []
    for part in parts:
        module = model.get_submodule(part.module)
        index = torch.tensor(part.index)
        kept.append((module.weight, module.weight.data.clone()))
        module.weight.data.index_fill_(part.axis, index, 0)
        if bias and module.bias is not None:
            kept.append((module.bias, module.bias.data.clone()))
            module.bias.data.index_fill_(0, index, 0)
    try:
        yield
    finally:
        for parameter, before in kept:
            parameter.data.copy_(before)


def only(parts: list[Slice], module: str) -> Slice:
    [part] = [p for p in parts if p.module == module]
    return part


def value_rows(anatomy: Anatomy, head: Component) -> Slice:
    """The v rows of a head's group: in every layout, fused or not, v lies behind q and k."""
    part = only(anatomy.slices(head), anatomy.module(head.layer, anatomy.family.value.module))
    return Slice(part.module, part.axis, part.index[-anatomy.head_dim :])


def assert_same_but_not_intact(one: torch.Tensor, other: torch.Tensor, intact: torch.Tensor, what: object) -> None:
    assert (one - other).abs().max() <= TOLERANCE, what
    assert (one - intact).abs().max() > VISIBLE, f"{what}: makes no difference, so nothing is proved"


def test_zeroing_a_heads_out_columns_silences_the_head(any_model):
    model = any_model
    anatomy = Anatomy.of(model)
    intact = families.logits(model, TOKENS)
    for head in anatomy.components("head"):
        out = anatomy.out_module(head.layer)
        with zeroed(model, [only(anatomy.slices(head), out)]):
            by_weights = families.logits(model, TOKENS)
        first = head.index * anatomy.head_dim
        with silenced(model, out, range(first, first + anatomy.head_dim)):
            by_hook = families.logits(model, TOKENS)
        assert_same_but_not_intact(by_weights, by_hook, intact, head)
    assert torch.equal(families.logits(model, TOKENS), intact)


def test_zeroing_value_rows_silences_the_whole_group(any_model):
    model = any_model
    anatomy = Anatomy.of(model)
    intact = families.logits(model, TOKENS)
    width = anatomy.heads_per_group * anatomy.head_dim
    for layer in range(anatomy.num_layers):
        for group in range(anatomy.num_groups):
            first = group * anatomy.heads_per_group
            heads = [Component("head", layer, first + i) for i in range(anatomy.heads_per_group)]
            rows = {value_rows(anatomy, head) for head in heads}
            assert len(rows) == 1, "the heads of a group share their v rows"
            with zeroed(model, list(rows), bias=True):
                by_weights = families.logits(model, TOKENS)
            with silenced(model, anatomy.out_module(layer), range(group * width, (group + 1) * width)):
                by_hook = families.logits(model, TOKENS)
            assert_same_but_not_intact(by_weights, by_hook, intact, f"layer {layer} group {group}")


def test_zeroing_a_neurons_down_column_silences_the_neuron(model):
    anatomy = Anatomy.of(model)
    intact = families.logits(model, TOKENS)
    for neuron in anatomy.components("neuron")[::7]:
        down = anatomy.down_module(neuron.layer)
        with zeroed(model, [only(anatomy.slices(neuron), down)]):
            by_weights = families.logits(model, TOKENS)
        with silenced(model, down, range(neuron.index, neuron.index + 1)):
            by_hook = families.logits(model, TOKENS)
        assert_same_but_not_intact(by_weights, by_hook, intact, neuron)


def inputs_of(model: nn.Module, module: str) -> torch.Tensor:
    """Run the model and return the module's input, with its graph."""
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(module).register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    try:
        model(input_ids=TOKENS)
    finally:
        handle.remove()
    return seen[0]


def touched(gradient: torch.Tensor, axis: int) -> tuple[int, ...]:
    return tuple(gradient.abs().amax(dim=1 - axis).nonzero().flatten().tolist())


def assert_gradient_lands_on(model: nn.Module, anatomy: Anatomy, component: Component, z: torch.Tensor) -> None:
    """``z``: the component's part of the activations, with its graph; all rows but no columns feed it."""
    into = anatomy.out_module if component.kind == "head" else anatomy.down_module
    parts = [p for p in anatomy.slices(component) if p.module != into(component.layer)]
    names = {r.module for r in _rows(anatomy, component.kind)}
    assert {anatomy.relative(p.module) for p in parts} == names
    weights = [model.get_submodule(p.module).weight for p in parts]
    gradients = torch.autograd.grad(z.square().sum(), weights, retain_graph=True)
    for part, gradient in zip(parts, gradients, strict=True):
        assert touched(gradient, part.axis) == part.index, f"{component} in {part.module}"


def _rows(anatomy: Anatomy, kind: str):
    f = anatomy.family
    return (f.query, f.key, f.value) if kind == "head" else f.up


def test_the_gradient_of_one_head_touches_exactly_its_rows(any_model):
    model = any_model
    anatomy = Anatomy.of(model)
    if anatomy.family.joint_norm:
        # The norm over all heads together lets every row of q and k reach every head; without it rows are separate.
        for layer in model.get_submodule(anatomy.prefix):
            layer.self_attn.q_norm = layer.self_attn.k_norm = nn.Identity()
    d = anatomy.head_dim
    for layer in range(anatomy.num_layers):
        z = inputs_of(model, anatomy.out_module(layer))
        assert z.shape[-1] == anatomy.num_heads * d
        for i in range(anatomy.num_heads):
            assert_gradient_lands_on(model, anatomy, Component("head", layer, i), z[..., i * d : (i + 1) * d])


def test_joint_norm_is_said_exactly_where_heads_mix(any_family):
    """The flag is no excuse: q's gradient of one head leaves the head's rows in these families and in no other."""
    model = families.make(any_family)
    anatomy = Anatomy.of(model)
    z = inputs_of(model, anatomy.out_module(1))[..., : anatomy.head_dim]
    query = only(anatomy.slices("L1.H0"), anatomy.module(1, anatomy.family.query.module))
    [gradient] = torch.autograd.grad(z.square().sum(), [model.get_submodule(query.module).weight])
    assert (
        (touched(gradient, query.axis) != query.index)
        == anatomy.family.joint_norm
        == (any_family in ("olmo2", "olmoe"))
    )


def test_the_gradient_of_one_neuron_touches_exactly_its_rows(model):
    anatomy = Anatomy.of(model)
    for layer in range(anatomy.num_layers):
        post = inputs_of(model, anatomy.down_module(layer))
        assert post.shape[-1] == anatomy.num_neurons
        for i in range(anatomy.num_neurons):
            assert_gradient_lands_on(model, anatomy, Component("neuron", layer, i), post[..., i])
