"""Scores of short training against the same training written out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from families import make
from scoring import all_owned, preferences, same, sums, weights
from watching import close

from guided_ft import localize
from guided_ft.anatomy import Anatomy


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_one_step_moves_along_the_gradient(family):
    model, task = make(family), sums(6)
    bits = [p.detach().clone() for p in model.parameters()]
    moved = localize(model, task, "movement", None, steps=1, lr=0.5)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), bits, strict=True))
    norm = localize(model, task, "gradient_norm", None)
    for kind in moved.kinds:
        close(moved.of(kind), 0.5 * norm.of(kind), 1e-3)
    relative = localize(model, task, "movement", None, steps=1, lr=0.5, relative=True)
    a = Anatomy.of(model)
    size = all_owned(a, "head", {name: w.detach().square() for name, w in weights(model).items()})
    close(relative.head, moved.head / np.sqrt(size), 1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_movement_is_that_of_plain_training(optimizer):
    model, task = make("llama"), sums(6, batch_size=4)
    scores = localize(model, task, "movement", None, steps=3, lr=1e-2, optimizer=optimizer)
    other = make("llama")
    stored = weights(other)
    before = {name: w.detach().clone() for name, w in stored.items()}
    make_optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    stepper = make_optimizer(stored.values(), lr=1e-2)
    batches = [*task.batches(), *task.batches()][:3]
    for batch in batches:
        other.zero_grad()
        task.loss(task.quantity(other, batch)).mean().backward()
        stepper.step()
    moved = {name: (w.detach() - before[name]).square() for name, w in stored.items()}
    for kind in scores.kinds:
        close(scores.of(kind), np.sqrt(all_owned(Anatomy.of(other), kind, moved)), 1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_below_the_resolution_of_the_weights_are_seen(dtype):
    model, task = make("llama", dtype), sums(6)
    bits = [p.detach().clone() for p in model.parameters()]
    rough, exact = (localize(m, task, "movement", None, lr=1e-5) for m in (model, make("llama")))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), bits, strict=True))
    for kind in exact.kinds:
        close(rough.of(kind), exact.of(kind), 0.1)
    again = localize(model, task, "movement", None, lr=10.0, steps=2)
    assert again.compare(rough, "neuron")["spearman"] < 0.999  # the steps did reach the weights
    handle = model.register_forward_hook(_fail_at(3))
    with pytest.raises(ZeroDivisionError):
        localize(model, task, "movement", None, lr=10.0)
    handle.remove()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), bits, strict=True))


def _fail_at(call: int):
    calls = iter(range(call - 1, -1, -1))
    return lambda *_: 1 / next(calls) and None


def test_movement_of_pairs_is_that_of_dpo():
    model, task = make("llama"), preferences(6, batch_size=4)
    scores = localize(model, task, "movement", None, steps=3, lr=0.1)
    other = make("llama")
    stored = weights(other)
    before = {name: w.detach().clone() for name, w in stored.items()}
    stepper = torch.optim.SGD(stored.values(), lr=0.1)
    with torch.no_grad():
        references = [task.quantity(other, batch) for batch in task.batches()]
    for batch, reference in ([*zip(task.batches(), references, strict=True)] * 2)[:3]:
        other.zero_grad()
        task.loss(task.quantity(other, batch), reference).mean().backward()
        stepper.step()
    moved = {name: (w.detach() - before[name]).square() for name, w in stored.items()}
    for kind in scores.kinds:
        close(scores.of(kind), np.sqrt(all_owned(Anatomy.of(other), kind, moved)), 1e-3)
    assert scores.meta["passes"] == 3 + 2


def test_scales_of_pairs_leave_the_model_without_them_behind():
    model, task = make("llama"), preferences(6, batch_size=4)
    with torch.no_grad():
        margins = torch.cat([task.quantity(model, batch) for batch in task.batches()])
    given = dataclasses.replace(task, reference=tuple(margins.tolist()))
    own, theirs = (localize(model, t, "gates", None, steps=4, lr=0.1, penalty="l0") for t in (task, given))
    same(own, theirs)


@pytest.mark.parametrize("kind", ["head", "neuron", "layer"])
def test_first_step_of_scales_is_that_of_the_attribution(kind):
    """One Adam step moves every scale by the sign of its gradient, which is what attribution estimates."""
    model, task = make("llama"), sums(6)
    seen = localize(model, task, "attribution", None, kinds=(kind,), signed=True).of(kind)
    dead = {"head": (1, 2), "neuron": (0, 5), "layer": None}[kind]
    scores = localize(model, task, "gates", None, kinds=(kind,), steps=1, lr=1.0, strength=0.0)
    assert (scores.of(kind) > 0.9).all()
    assert (np.abs(seen) > 0).all()
    if dead is None:
        return
    module = Anatomy.of(model)
    name = (module.out_module if kind == "head" else module.down_module)(dead[0])
    width = module.head_dim if kind == "head" else 1
    model.get_submodule(name).weight.data[:, dead[1] * width : (dead[1] + 1) * width] = 0
    scores = localize(model, task, "gates", None, kinds=(kind,), steps=1, lr=1.0, strength=0.0)
    assert (
        scores.of(kind)[dead]
        < 0.01
        < 0.9
        < np.delete(scores.of(kind).ravel(), dead[0] * module.size(kind) + dead[1]).min()
    )


def test_scales_follow_plain_training():
    """Two Adam steps on a scale of one layer's update, written out with a parameter of the test's own."""
    model, task = make("gpt2"), sums(6, batch_size=3)
    scores = localize(model, task, "gates", None, kinds=("layer",), steps=2, lr=0.1, strength=0.01, seed=4)
    torch.manual_seed(4)
    scale = (torch.randn(2, 1, 1) * 1e-3).requires_grad_(True)
    stepper = torch.optim.Adam([scale], lr=0.1)

    def hook(i):
        def post(m, args, kwargs, out):
            before = args[0] if args else kwargs["hidden_states"]
            after = out[0] if isinstance(out, tuple) else out
            after = before + (after - before) * (1 + scale[i, 0, 0])
            return (after, *out[1:]) if isinstance(out, tuple) else after

        return post

    handles = [b.register_forward_hook(hook(i), with_kwargs=True) for i, b in enumerate(model.transformer.h)]
    for batch in task.batches():
        stepper.zero_grad()
        (task.loss(task.quantity(model, batch)).mean() + 0.01 * scale.abs().sum()).backward()
        stepper.step()
    for handle in handles:
        handle.remove()
    close(scores.layer, scale.detach().abs().reshape(-1), 1e-3)


def test_hard_gates_close_what_is_not_needed():
    """A dead component costs and does nothing: its gate closes; with no price all stay open."""
    model, task = make("llama"), sums(6)
    model.model.layers[0].self_attn.o_proj.weight.data[:, 8:16] = 0
    priced = localize(model, task, "gates", None, kinds=("head",), penalty="l0", strength=2.0, steps=15)
    free = localize(model, task, "gates", None, kinds=("head",), penalty="l0", strength=0.0, steps=1, lr=0.0)
    assert priced.head[0, 1] < np.median(priced.head)
    assert priced.head[0, 1] < 0.9 < free.head.min()
    np.testing.assert_allclose(free.head, 1 / (1 + np.exp(-(2.0 - 0.33 * np.log(0.1 / 1.1)))), rtol=1e-5)
    again = localize(model, task, "gates", None, kinds=("head",), penalty="l0", strength=2.0, steps=15, seed=1)
    assert not np.array_equal(again.head, priced.head)
