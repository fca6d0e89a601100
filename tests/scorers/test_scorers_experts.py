"""Scorers on mixtures of experts: each against an oracle that knows nothing of the scorers' own arithmetic."""

from __future__ import annotations

import moe
import numpy as np
import pytest
import torch
from basic_scorers import METHODS, same, task_of
from families import EXPERTS, PER_EXPERT, make
from refusing import refuses
from untouched import equal, hooks_of, prepared, state_of

from guided_ft.anatomy import KINDS, Anatomy, stored_weight
from guided_ft.scorers.localize import localize

NEURONS = EXPERTS * PER_EXPERT


@pytest.mark.parametrize("method", METHODS)
def test_every_method_scores_every_family(moe_family, method):
    scores = localize(make(moe_family), task_of(4), method, kinds=KINDS, retain=None)
    assert scores.kinds == KINDS
    assert scores.neuron.shape == (2, NEURONS)
    assert all(np.ptp(scores.of(kind)) > 0 for kind in KINDS)


def test_two_sided_scores_of_text_that_the_model_samples(moe_family):
    scores = localize(make(moe_family), task_of(4), "attribution", retain="self")
    assert scores.meta["retain"]["examples"] == 16
    assert (scores.neuron >= 0).all()


def test_attribution_equals_autograd(moe_family):
    """Oracle: the gradient of the loss in a factor on what each neuron says, one factor per example."""
    model, task = make(moe_family).requires_grad_(False), task_of(4)
    scores = {s: localize(model, task, "attribution", retain=None, signed=s) for s in (False, True)}
    batch = next(task.batches())
    rows = len(batch["input_ids"])
    for layer in range(2):
        factor = torch.ones(rows, EXPERTS, PER_EXPERT, requires_grad=True)

        def scale(said, expert, weight, factor=factor):
            row = torch.arange(len(expert)) // (len(expert) // rows)
            return said * factor[row, expert]

        with moe.neurons_seen(model, layer, scale):
            task.loss(task.quantity(model, batch)).sum().backward()
        expected = factor.grad.flatten(1)
        np.testing.assert_allclose(scores[False].neuron[layer], expected.abs().mean(0), rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(scores[True].neuron[layer], -expected.mean(0), rtol=1e-3, atol=1e-7)


def test_gradient_and_magnitude_equal_autograd_and_the_weights(moe_family):
    model, task = make(moe_family), task_of(6, batch_size=3)
    anatomy = Anatomy.of(model)
    found = {method: localize(model, task, method, retain=None) for method in ("gradient", "magnitude")}
    model.requires_grad_(True)
    expected = {method: np.zeros((2, NEURONS)) for method in found}
    layers = {method: np.zeros(2) for method in found}
    for batch in task.batches():
        model.zero_grad()
        task.loss(task.quantity(model, batch)).mean().backward()
        for neuron in anatomy.components("neuron"):
            for part in anatomy.slices(neuron):
                square = moe.cut(stored_weight(model, part.module).grad, part).pow(2).sum()
                expected["gradient"][neuron.layer, anatomy.position(neuron)] += float(square) / 2
        for i in range(2):
            grads = [stored_weight(model, anatomy.module(i, name)).grad for name in anatomy.shapes]
            layers["gradient"][i] += sum(float(g.pow(2).sum()) for g in grads) / 2
    for neuron in anatomy.components("neuron"):
        parts = [moe.cut(stored_weight(model, p.module), p) for p in anatomy.slices(neuron)]
        expected["magnitude"][neuron.layer, anatomy.position(neuron)] = (
            sum(float(p.detach().pow(2).sum()) for p in parts) ** 0.5
        )
    for i in range(2):
        weights = [stored_weight(model, anatomy.module(i, name)).detach() for name in anatomy.shapes]
        layers["magnitude"][i] = sum(float(w.pow(2).sum()) for w in weights) ** 0.5
    for method, scores in found.items():
        np.testing.assert_allclose(scores.neuron, expected[method], rtol=1e-4)
        np.testing.assert_allclose(scores.layer, layers[method], rtol=1e-4)


def loss_of(model, task) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([task.loss(task.quantity(model, batch)) for batch in task.batches()])


def test_ablation_to_zero_equals_editing_the_weights(moe_family):
    model, task = make(moe_family), task_of(3, batch_size=2)
    anatomy = Anatomy.of(model)
    scores = localize(model, task, "ablation", retain=None, kinds=("neuron",), signed=True)
    clean = loss_of(model, task)
    for text in ("L0.E0.N1", "L0.E2.N7", "L1.E1.N0", "L1.E2.N3"):
        edited, neuron = make(moe_family), anatomy.check(moe.Component.parse(text))
        part = moe.part_of(anatomy, neuron, anatomy.family.down)
        stored_weight(edited, part.module).data[part.expert].index_fill_(part.axis, torch.tensor(part.index), 0)
        expected = float((loss_of(edited, task) - clean).mean())
        assert abs(expected) > 1e-5, "no effect to compare"
        assert scores.score(neuron) == pytest.approx(expected, abs=1e-5)


def test_ablation_to_the_mean_equals_editing_the_weights_and_adding_a_constant(moe_family):
    """The mean over all real tokens of what the router lets a neuron say, zero where it is not asked."""
    model, task = make(moe_family), task_of(3, batch_size=2)
    anatomy = Anatomy.of(model)
    scores = localize(model, task, "ablation", retain=None, kinds=("neuron",), signed=True, replace="mean")
    clean = loss_of(model, task)
    for text in ("L0.E0.N1", "L1.E2.N3"):
        neuron = anatomy.check(moe.Component.parse(text))
        sums = []
        for batch in task.batches():
            mask = batch["attention_mask"].flatten()

            def add(said, expert, weight, neuron=neuron, mask=mask, sums=sums):
                real = mask.repeat_interleave(len(expert) // len(mask))
                sums.append(float((said[:, neuron.index] * weight * (expert == neuron.expert) * real).sum()))

            with moe.neurons_seen(model, neuron.layer, add):
                task.quantity(model, batch)
        mean = sum(sums) / sum(int(batch["attention_mask"].sum()) for batch in task.batches())
        edited = make(moe_family)
        part = moe.part_of(anatomy, neuron, anatomy.family.down)
        weight = stored_weight(edited, part.module).data[part.expert]
        column = weight.index_select(part.axis, torch.tensor(part.index)).flatten().clone()
        weight.index_fill_(part.axis, torch.tensor(part.index), 0)
        experts = edited.get_submodule(anatomy.experts_module(neuron.layer))
        experts.register_forward_hook(lambda m, args, y, constant=mean * column: y + constant)
        assert scores.score(neuron) == pytest.approx(float((loss_of(edited, task) - clean).mean()), abs=1e-5)


def test_attribution_is_exact_where_the_loss_is_linear(moe_family):
    """First order against exact, with contributions so small that nothing bends and no token is routed elsewhere."""
    model, task = make(moe_family), task_of(4)
    anatomy = Anatomy.of(model)
    for layer in range(2):
        for name in (anatomy.family.down, anatomy.family.out):
            stored_weight(model, anatomy.module(layer, name)).data.mul_(1e-3)
    estimate, exact = (
        localize(model, task, method, retain=None, kinds=("head", "neuron"), signed=True)
        for method in ("attribution", "ablation")
    )
    assert estimate.compare(exact, "head")["pearson"] > 0.999
    assert estimate.compare(exact, "neuron")["pearson"] > 0.98


@pytest.mark.parametrize("method", ["attribution", "ablation"])
@pytest.mark.parametrize("preference", [False, True])
def test_scores_do_not_depend_on_the_batching(method, preference):
    model = make("gpt_oss")
    maps = [localize(model, task_of(5, n, preference), method, retain=None, kinds=KINDS) for n in (1, 2, 8)]
    same(maps[0], maps[1])
    same(maps[0], maps[2])


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_left_behind(moe_family, method):
    model = prepared(moe_family)
    before = state_of(model)
    localize(model, task_of(2), method, kinds=KINDS, retain=None)
    assert equal(state_of(model), before)


@pytest.mark.parametrize("method", ["attribution", "ablation"])
def test_experts_with_an_adapter_are_refused_until_it_is_merged(method):
    peft_model = moe.attach(make("mixtral"), "L1.E0.N3", changed=True)
    with refuses(
        "model.layers.1.mlp.experts: these experts carry an adapter (score before it is added or after merge_adapter())"
    ):
        localize(peft_model, task_of(2), method, retain=None, kinds=("neuron",))
    assert hooks_of(peft_model) == 0
    assert localize(peft_model, task_of(2), method, retain=None, kinds=("head", "layer")).kinds == ("layer", "head")
    # Unloaded after merging it is a plain model; it must score as the merged one does.
    peft_model.merge_adapter()
    as_merged = localize(peft_model, task_of(2), method, retain=None, kinds=("neuron",))
    peft_model.unmerge_adapter()
    with peft_model.disable_adapter():
        as_base = localize(peft_model, task_of(2), method, retain=None, kinds=("neuron",))
    same(as_base, localize(make("mixtral"), task_of(2), method, retain=None, kinds=("neuron",)))
    same(as_merged, localize(peft_model.merge_and_unload(), task_of(2), method, retain=None, kinds=("neuron",)))
    assert not np.allclose(as_merged.neuron, as_base.neuron)
