"""Scores of gradients of activations against captum and against plain autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import LayerConductance, LayerGradientXActivation
from families import make
from scoring import pairs, sums
from transformers import AutoConfig
from watching import close

from guided_ft import localize
from guided_ft.anatomy import Anatomy
from guided_ft.proofs.replica import replica_of_config

THREE = ["llama", "gpt2", "gpt_neox"]


def asked(model, task):
    """Embeddings of one batch, and its loss as a function of them."""
    batch = next(task.batches())
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach()

    def loss(inputs):
        repeat = len(inputs) // len(embeddings)
        mask, labels = batch["attention_mask"].repeat(repeat, 1), batch["labels"].repeat(repeat, 1)
        logits = model(inputs_embeds=inputs, attention_mask=mask, use_cache=False).logits[:, :-1]
        nll = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none"
        )
        return nll.sum(1) / (labels[:, 1:] != -100).sum(1)

    return embeddings, loss


def places(model, kind):
    a = Anatomy.of(model)
    return [model.get_submodule({"head": a.out_module, "neuron": a.down_module}[kind](i)) for i in range(a.num_layers)]


def entering(model, kind, run):
    """What enters the projections of a kind while something runs, and its result."""
    seen: list[torch.Tensor] = []
    handles = [m.register_forward_pre_hook(lambda m, args: seen.append(args[0])) for m in places(model, kind)]
    result = run()
    for handle in handles:
        handle.remove()
    return seen, result


def folded(model, kind, values):
    """``[layers][rows, tokens, width] -> [layers, rows, components]``."""
    a = Anatomy.of(model)
    return torch.stack([v.detach().sum(1).unflatten(-1, (a.size(kind), -1)).sum(-1) for v in values])


@pytest.mark.parametrize("family", THREE)
@pytest.mark.parametrize("kind", ["head", "neuron"])
def test_attribution_equals_captum_to_a_millionth(family, kind):
    model, task = make(family).requires_grad_(False), sums(5)
    embeddings, loss = asked(model, task)
    method = LayerGradientXActivation(loss, places(model, kind))
    found = method.attribute(embeddings.requires_grad_(True), attribute_to_layer_input=True)
    effects = folded(model, kind, [f[0] if isinstance(f, tuple) else f for f in found])
    maps = localize(
        model,
        task,
        methods={
            "size": {"method": "attribution"},
            "signed": {"method": "attribution", "signed": True},
            "squared": {"method": "attribution", "squared": True},
        },
        retain=None,
    )
    for name, expected in {"size": effects.abs(), "signed": -effects, "squared": effects.square()}.items():
        expected = expected.double().mean(1).numpy()
        assert np.abs(maps[name].of(kind) - expected).max() <= 1e-6 * np.abs(expected).max(), name


def test_attribution_of_a_shared_expert_equals_autograd():
    """Llama 4 hands rows and tokens to the expert that all tokens share as one dimension."""
    model, task = replica_of_config(AutoConfig.for_model("llama4_text", pad_token_id=0)), sums(5)
    embeddings, loss = asked(model, task)
    seen, total = entering(model, "neuron", lambda: loss(embeddings.requires_grad_(True)).sum())
    products = [x * g for x, g in zip(seen, torch.autograd.grad(total, seen), strict=True)]
    effects = folded(model, "neuron", [p.unflatten(0, embeddings.shape[:2]) for p in products])
    scores = localize(model, task, "attribution", retain=None)
    np.testing.assert_allclose(scores.neuron, effects.abs().mean(1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", THREE)
@pytest.mark.parametrize("kind", ["head", "neuron"])
def test_conductance_equals_captum(family, kind):
    model, task = make(family).requires_grad_(False), sums(4)
    embeddings, loss = asked(model, task)
    found = []
    for module in places(model, kind):
        # Captum's gradients are taken at the start of each stride, ours at the end: it walks the path backwards.
        part = LayerConductance(loss, module).attribute(
            torch.zeros_like(embeddings),
            baselines=embeddings,
            n_steps=4,
            method="riemann_trapezoid",
            attribute_to_layer_input=True,
        )
        found.append(part[0] if isinstance(part, tuple) else part)
    expected = folded(model, kind, found).double().mean(1).numpy()
    scores = localize(model, task, "integrated_gradients", None, steps=4, rule="conductance", signed=True)
    assert np.abs(scores.of(kind) - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("baseline", ["zero", "corrupted"])
def test_integrated_gradients_step_by_step(family, baseline):
    model, task = make(family).requires_grad_(False), pairs(5)
    batch = next(task.batches())
    end, loss = asked(model, task)
    start = torch.zeros_like(end)
    if baseline == "corrupted":
        start = model.get_input_embeddings()(batch["corrupted_ids"]).detach()

    def at(share, kind):
        x = (start + share * (end - start)).requires_grad_(True)
        seen, total = entering(model, kind, lambda: loss(x).sum())
        return seen, torch.autograd.grad(total, seen)

    scores = localize(model, task, "integrated_gradients", None, steps=3, baseline=baseline, signed=True)
    for kind in ("head", "neuron"):
        first, last = at(0.0, kind)[0], at(1.0, kind)[0]
        steps = [at(k / 3, kind)[1] for k in (1, 2, 3)]
        mean = [sum(g) / 3 for g in zip(*steps, strict=True)]
        effects = folded(model, kind, [(b - a) * g for a, b, g in zip(last, first, mean, strict=True)])
        close(scores.of(kind), effects.double().mean(1), 1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("replace", ["mean", "corrupted"])
def test_attribution_to_the_mean_and_to_the_corrupted_prompt(family, replace):
    model, task = make(family), pairs(5)
    batch = next(task.batches())
    for kind in ("head", "neuron"):
        clean, loss = entering(model, kind, lambda: task.loss(task.quantity(model, batch)).sum())
        gradients = torch.autograd.grad(loss, clean)
        other, _ = entering(
            model, kind, lambda: model(input_ids=batch["corrupted_ids"], attention_mask=batch["attention_mask"])
        )
        shape, mask = batch["input_ids"].shape, batch["attention_mask"].bool()
        clean, other, gradients = ([x.detach().reshape(*shape, -1) for x in xs] for xs in (clean, other, gradients))
        if replace == "mean":
            other = [x[mask].mean(0).expand_as(x) for x in clean]
        effects = folded(model, kind, [(o - c) * g for c, o, g in zip(clean, other, gradients, strict=True)])
        for signed in (True, False):
            scores = localize(model, task, "attribution", None, replace=replace, signed=signed)
            close(scores.of(kind), (effects if signed else effects.abs()).double().mean(1), 1e-4)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("attribution", {"replace": "corrupted"}),
        ("integrated_gradients", {"baseline": "corrupted"}),
        ("eap", {"replace": "corrupted"}),
        ("eap", {"replace": "corrupted", "steps": 2}),
    ],
)
def test_identical_pairs_give_exactly_zero(family, method, options):
    task = pairs(4)
    object.__setattr__(task, "corrupted", task.examples)
    scores = localize(make(family), task, method, None, **options)
    assert all((scores.of(kind) == 0).all() for kind in scores.kinds)


def test_attribution_of_pairs_is_exact_where_the_model_is_linear():
    """Contributions so small that nothing downstream bends: first order is the exact patch."""
    model, task = make("llama"), pairs(4)
    a = Anatomy.of(model)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data.mul_(1e-3)
        layer.self_attn.o_proj.weight.data.mul_(1e-3)
    found = localize(model, task, "attribution", None, replace="corrupted", signed=True).head
    batch = next(task.batches())
    with torch.no_grad():
        plain = task.quantity(model, batch)
        for i in range(a.num_layers):
            module, seen = model.get_submodule(a.out_module(i)), []
            handle = module.register_forward_pre_hook(lambda m, args, s=seen: s.append(args[0]))
            model(input_ids=batch["corrupted_ids"], attention_mask=batch["attention_mask"])
            handle.remove()
            for h in range(a.num_heads):

                def patch(m, args, h=h, other=seen[0]):
                    z = args[0].clone()
                    z[..., h * a.head_dim : (h + 1) * a.head_dim] = other[..., h * a.head_dim : (h + 1) * a.head_dim]
                    return (z,)

                handle = module.register_forward_pre_hook(patch)
                exact = float((task.quantity(model, batch) - plain).mean())
                handle.remove()
                assert found[i, h] == pytest.approx(exact, rel=0.02, abs=1e-6)
