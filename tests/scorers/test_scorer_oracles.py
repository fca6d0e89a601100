"""Every formula against a second, plain computation of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from captum.attr import LayerConductance, LayerGradientXActivation
from families import make
from scoring import all_owned, example_gradients, pairs, preferences, same, sums, weights

from guided_ft import Task, localize
from guided_ft.anatomy import Anatomy
from guided_ft.scorers.methods.fisher import ghost_squares
from guided_ft.scorers.watch.scene import Scene
from guided_ft.scorers.watch.tap import Tap

THREE = ["llama", "gpt2", "gpt_neox"]
POST_NORMED = ["gemma2", "olmo2"]


class Watch:
    """What the test sees with plain hooks, one example at a time: no padding, no batches."""

    def __init__(self, model, task, position: int = 0) -> None:
        self.anatomy = a = Anatomy.of(model)
        self.texts: list[dict] = []
        with torch.no_grad():
            for example in task.examples:
                seen: dict = {}
                handles = []

                def keep(key, seen=seen):
                    def hook(module, args, kwargs, output):
                        seen[key] = (args[0] if args else kwargs["hidden_states"], output)

                    return hook

                for i in range(a.num_layers):
                    names = {"z": a.out_module(i), "post": a.down_module(i), "layer": a.layer_module(i)}
                    names |= {n: a.module(i, n) for n in a.shapes}
                    names["attention"] = a.out_module(i).rsplit(".", 1)[0]
                    for key, name in names.items():
                        module = model.get_submodule(name)
                        handles.append(module.register_forward_hook(keep((key, i)), with_kwargs=True))
                ids = torch.tensor([example[position].ids])
                seen["logits"] = model(input_ids=ids).logits[0]
                seen["labels"] = torch.tensor(example[position].labels)
                for handle in handles:
                    handle.remove()
                self.texts.append(seen)

    def each(self, kind, i):
        """Activations of each text: ``[tokens, components, width]``."""
        a = self.anatomy
        for text in self.texts:
            before, after = text["layer", i]
            after = after[0] if isinstance(after, tuple) else after
            x = {"head": text["z", i][0], "neuron": text["post", i][0], "layer": after - before}[kind]
            x = x.reshape(-1, x.shape[-1])
            yield x.unflatten(-1, (a.size(kind), -1)).double()

    def tokens(self, kind, i, first=1):
        """All tokens but the first of each text: ``[tokens, components, width]``."""
        return torch.cat([x[first:] for x in self.each(kind, i)])

    def table(self, kind, of):
        return np.stack([of(i).numpy().reshape(-1) for i in range(self.anatomy.num_layers)]).squeeze()


def close(found, expected, tolerance=1e-5):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


# -- activations --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_activation_norms(family):
    model, task = make(family), sums(5, batch_size=3)
    watch = Watch(model, task)
    scores = localize(model, task, "activation", None)
    written = localize(model, task, "activation", None, written=True)
    small = localize(model, task, "activation", None, small=True)
    for kind in scores.kinds:
        close(scores.of(kind), watch.table(kind, lambda i, k=kind: watch.tokens(k, i).norm(dim=-1).mean(0)))
        a = scores.of(kind).astype(float)
        close(small.of(kind), a.mean() / (a.mean() + a))
    a = watch.anatomy

    def columns(name, size):
        weight = model.get_submodule(name).weight.detach().double()
        return (weight.T if a.rows_axis else weight).unflatten(1, (size, -1))

    for kind, place in (("head", a.out_module), ("neuron", a.down_module)):
        expected = watch.table(
            kind,
            lambda i, k=kind, p=place: (
                torch.einsum("thd,ohd->tho", watch.tokens(k, i), columns(p(i), a.size(k))).norm(dim=-1).mean(0)
            ),
        )
        close(written.of(kind), expected)
    close(written.layer, scores.layer)


def test_what_experts_write_is_what_their_neurons_say_times_their_columns():
    model, task = make("mixtral"), sums(5, batch_size=3)
    said, written = (localize(model, task, "activation", None, written=w).neuron for w in (False, True))
    for i in range(2):
        down = model.get_submodule(f"model.layers.{i}.mlp.experts").down_proj.detach()  # [experts, width, neurons]
        close(written[i], said[i] * down.norm(dim=1).flatten().numpy())


@pytest.mark.parametrize(("family", "gate"), [("llama", "mlp.gate_proj"), ("opt", "fc1"), ("phi3", "mlp.gate_up_proj")])
def test_frequency_counts_the_gate(family, gate):
    model, task = make(family), sums(5, batch_size=3)
    watch = Watch(model, task)
    number = watch.anatomy.num_neurons

    def of(i):
        outputs = [text[gate, i][1].reshape(-1, text[gate, i][1].shape[-1])[1:, :number] for text in watch.texts]
        return (torch.cat(outputs) > 0).double().mean(0)

    close(localize(model, task, "frequency", None).neuron, watch.table("neuron", of))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_sink_is_the_attention_on_the_first_token(family):
    model, task = make(family), sums(5, batch_size=3)
    watch = Watch(model, task)

    def of(i):
        mass = [text["attention", i][1][1][0][:, 1:, 0] for text in watch.texts]  # [heads, later queries]
        return torch.cat(mass, 1).double().mean(1)

    scores = localize(model, task, "sink", None)
    close(scores.head, watch.table("head", of))
    close(scores.layer, scores.head.mean(1))


def test_massive_activations():
    model, task = make("llama"), sums(5, batch_size=3)
    model.model.layers[1].mlp.up_proj.weight.data[7] *= 100
    watch = Watch(model, task)

    def layer(i):
        sizes = [text["layer", i][1].abs() for text in watch.texts]
        return torch.stack([s.max() / s.median() for s in sizes]).mean()

    def neuron(i):
        sizes = [x.abs()[..., 0] for x in watch.each("neuron", i)]
        return torch.stack([s.amax(0) / s.median() for s in sizes]).mean(0)

    scores = localize(model, task, "massive", None)
    close(scores.layer, watch.table("layer", layer))
    close(scores.neuron, watch.table("neuron", neuron))
    assert scores.top("neuron", 1)[0][0].index == 7


@pytest.mark.parametrize("family", ["opt", "mixtral"])
def test_massive_activations_of_neurons_that_are_mostly_silent(family):
    model, task = make(family), sums(5, batch_size=3)
    if family == "opt":
        for layer in model.model.decoder.layers:
            layer.fc1.bias.data -= 1
        model.model.decoder.layers[1].fc1.bias.data[:] = -99
    seen: list[list[torch.Tensor]] = [[], []]
    with Tap(model) as tap, torch.no_grad():
        scene = Scene(tap, Anatomy.of(model), task)
        scene.at_components(("neuron",), lambda kind, layer, a: seen[layer].append(a[0].abs()))
        for batch in task.batches():
            for row in range(len(batch["labels"])):
                scene.show({k: v[row : row + 1, batch["attention_mask"][row].bool()] for k, v in batch.items()})
                scene.forward()
    expected = [torch.stack([a.amax(0) / a[a > 0].median().nan_to_num(1) for a in texts]).mean(0) for texts in seen]
    assert all((a == 0).double().mean() > 0.3 for texts in seen for a in texts)
    scores = localize(model, task, "massive", None, kinds=("neuron",))
    close(scores.neuron, torch.stack(expected))
    assert (scores.neuron[1].max() == 0) == (family == "opt")


def test_block_influence_and_angle():
    model, task = make("gpt2"), sums(5, batch_size=3)
    watch = Watch(model, task)

    def cosines(i):
        found = []
        for text in watch.texts:
            before, after = text["layer", i]
            after = after[0] if isinstance(after, tuple) else after
            for x, y in zip(before[0, 1:].double().numpy(), after[0, 1:].double().numpy(), strict=True):
                found.append(x @ y / np.sqrt((x @ x) * (y @ y)))
        return np.array(found)

    close(localize(model, task, "block_influence", None).layer, [1 - cosines(i).mean() for i in (0, 1)])
    close(localize(model, task, "angular", None).layer, [np.arccos(cosines(i)).mean() / np.pi for i in (0, 1)])


def test_a_layer_that_changes_nothing_has_no_influence():
    model = make("llama", layers=3)
    model.model.layers[1].self_attn.o_proj.weight.data.zero_()
    model.model.layers[1].mlp.down_proj.weight.data.zero_()
    for first in range(0, 15, 5):
        for retain in (None, sums(4, first=20)):
            found = localize(model, sums(4, first=first), "block_influence", retain).layer
            assert 0 <= found[1] < 1e-6 < min(found[0], found[2])


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_wanda(family):
    model, task = make(family), sums(5, batch_size=3)
    watch, values = Watch(model, task), {}
    a = watch.anatomy
    for i in range(a.num_layers):
        for name in a.shapes:
            x = torch.cat([text[name, i][0].reshape(-1, text[name, i][0].shape[-1]) for text in watch.texts])
            weight = model.get_submodule(a.module(i, name)).weight.detach().double().abs()
            norm = x.double().square().mean(0).sqrt()
            values[a.module(i, name)] = weight * (norm[:, None] if a.rows_axis else norm)
    scores = localize(model, task, "wanda", None)
    for kind in scores.kinds:
        close(scores.of(kind), all_owned(a, kind, values))


# -- gradients of weights -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "phi3"])
@pytest.mark.parametrize("preference", [False, True])
def test_scores_of_weight_gradients(family, preference):
    model = make(family)
    task = preferences(4, batch_size=3) if preference else sums(5, batch_size=3)
    retain = sums(4, batch_size=3, first=7)
    singles, kept = example_gradients(model, task), example_gradients(model, retain)
    stored, a = weights(model), Anatomy.of(model)
    mean = {name: sum(g[name] for g in singles) / len(singles) for name in stored}
    fisher = {name: sum(g[name].square() for g in singles) / len(singles) for name in stored}
    spent = {name: sum(g[name].square() for g in kept) / len(kept) for name in stored}
    floor = 0.1 * float(torch.cat([f.flatten() for f in spent.values()]).double().mean())
    squares = {name: g.square() for name, g in mean.items()}
    maps = localize(
        model,
        task,
        methods={
            "fisher": {},
            "gradient_norm": {},
            "relative": {"method": "gradient_norm", "relative": True},
            "snip": {},
            "whole": {"method": "snip", "whole": True},
            "coherence": {},
            "natural_gain": {"against": retain},
        },
        retain=None,
    )
    for kind in ("layer", "head", "neuron"):
        size = all_owned(a, kind, {name: w.detach().square() for name, w in stored.items()})
        norm, single = all_owned(a, kind, squares), all_owned(a, kind, fisher)
        close(maps["fisher"].of(kind), single, 1e-4)
        close(maps["gradient_norm"].of(kind), np.sqrt(norm), 1e-4)
        close(maps["relative"].of(kind), np.sqrt(norm / size), 1e-4)
        close(
            maps["snip"].of(kind),
            all_owned(a, kind, {n: (g * stored[n]).abs().detach() for n, g in mean.items()}),
            1e-4,
        )
        whole = all_owned(a, kind, {n: (g * stored[n]).detach() for n, g in mean.items()})
        close(maps["whole"].of(kind), np.abs(whole), 1e-4)
        close(maps["coherence"].of(kind), norm / np.where(single > 1e-12 * single.max(), single, np.inf), 1e-3)
        gain = all_owned(a, kind, {n: g.square() / (spent[n] + floor) for n, g in mean.items()})
        close(maps["natural_gain"].of(kind), gain, 1e-4)
        assert (maps["coherence"].of(kind) <= 1 + 1e-5).all()


def test_fisher_is_the_gradient_score_of_single_examples():
    model = make("llama")
    same(localize(model, sums(5, 1), "gradient", None), localize(model, sums(5, 3), "fisher", None))


def test_coherence_of_one_example_is_one_and_of_opposites_is_zero():
    model, task = make("llama"), sums(1)
    assert np.allclose(localize(model, task, "coherence", None).neuron, 1, atol=1e-4)
    twice = sums(1)
    object.__setattr__(twice, "examples", twice.examples * 3)
    assert np.allclose(localize(model, twice, "coherence", None).head, 1, atol=1e-4)


@pytest.mark.parametrize("tokens", [3, 400])
def test_ghost_norms_on_both_ways(tokens):
    x, g = torch.randn(4, tokens, 20), torch.randn(4, tokens, 30)
    made = torch.einsum("bto,bti->boi", g.double(), x.double()).square()
    rows, columns = ghost_squares(x, g), ghost_squares(g, x)
    np.testing.assert_allclose(rows, made.sum((0, 2)), rtol=1e-4)
    np.testing.assert_allclose(columns, made.sum((0, 1)), rtol=1e-4)


# -- gradients of activations -------------------------------------------------------------------------------------------
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


# -- vocabulary ---------------------------------------------------------------------------------------------------------
def unembedding(model):
    decoder = model.get_decoder()
    norm = next(getattr(decoder, n) for n in ("norm", "ln_f", "final_layer_norm") if hasattr(decoder, n))
    return norm, model.get_output_embeddings()


def answered(watch):
    """Per text: the rows that predict the answer and its tokens."""
    for text in watch.texts:
        at = (text["labels"][1:] != -100).nonzero()[:, 0]
        yield text, at, text["labels"][1:][at]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", *POST_NORMED])
@torch.no_grad()
def test_direct_logits_add_up(family):
    model, task = make(family), sums(5, batch_size=3)
    watch, a = Watch(model, task), Anatomy.of(model)
    norm, head = unembedding(model)
    centred = isinstance(norm, torch.nn.LayerNorm)
    total = []
    for text, at, answer in answered(watch):
        logits = head(
            norm(
                text["layer", a.num_layers - 1][1][0]
                if not isinstance(text["layer", a.num_layers - 1][1], tuple)
                else text["layer", a.num_layers - 1][1][0][0]
            )
        )[at]
        right = logits.gather(1, answer[:, None])[:, 0] - logits.mean(1)
        last = text["layer", a.num_layers - 1][1]
        last = (last[0] if isinstance(last, tuple) else last)[0][at]
        first = text["layer", 0][0][0][at]
        beta = norm.bias if centred else 0.0
        inside = [x - x.mean(-1, keepdim=True) if centred else x for x in (last, first)]
        gain = (norm(last) - beta) / inside[0]
        direction = head.weight[answer] - head.weight.mean(0)
        rest = ((gain * inside[1] + beta) * direction).sum(1)
        total.append(float((right - rest).mean()))
    scores = localize(model, task, "direct_logit", None, signed=True)
    assert scores.layer.sum() == pytest.approx(np.mean(total), abs=2e-3)


@pytest.mark.parametrize("family", ["llama", *POST_NORMED, "mixtral", "olmoe"])
def test_heads_and_neurons_add_up_to_layers(family):
    """These families have no biases, so that nothing else is written."""
    model = make(family)
    scores = localize(model, sums(5), "direct_logit", None, signed=True)
    close(scores.head.sum(1) + scores.neuron.sum(1), scores.layer, 1e-4)


@torch.no_grad()
def test_direct_logit_of_the_last_layer_is_its_ablation_at_a_frozen_scale():
    model, task = make("llama"), sums(1)
    watch = Watch(model, task)
    (text, at, answer), (norm, head) = next(answered(watch)), unembedding(model)
    z, hidden = text["z", 1][0][0][at], text["layer", 1][1][0][at]
    scale = hidden.pow(2).mean(-1, keepdim=True).add(norm.variance_epsilon).rsqrt()
    found = localize(model, task, "direct_logit", None, signed=True).head[1]
    for h in range(4):
        part = z[:, 8 * h : 8 * h + 8] @ model.model.layers[1].self_attn.o_proj.weight[:, 8 * h : 8 * h + 8].T
        logits = head(part * scale * norm.weight)
        expected = (logits.gather(1, answer[:, None])[:, 0] - logits.mean(1)).mean()
        assert found[h] == pytest.approx(float(expected), rel=1e-4)


def test_direct_logit_against_the_wrong_answer():

    rows = [
        {"prompt": "1+2 =", "completion": " 3", "wrong": " 4"},
        {"prompt": "2+5 =", "completion": " 7", "wrong": " 8"},
    ]
    task = Task.from_dataset(rows, tiny.tokenizer(), metric="logit_diff")
    model = make("llama")
    watch, (norm, head) = Watch(model, task), unembedding(model)
    expected = []
    for row, text in zip(rows, watch.texts, strict=True):
        at = len(text["labels"]) - 3  # predicts the digit; the end token follows it
        right, wrong = (tiny.tokenizer()(row[k])["input_ids"][-1] for k in ("completion", "wrong"))
        assert int(text["labels"][at + 1]) == right
        last, first = text["layer", 1][1][0][at], text["layer", 0][0][0][at]
        gain = norm(last) / last
        logits = text["logits"][at]
        rest = (gain * first) @ (head.weight[right] - head.weight[wrong])
        expected.append(float((logits[right] - logits[wrong] - rest).detach()))
    scores = localize(model, task, "direct_logit", None, signed=True)
    assert scores.layer.sum() == pytest.approx(np.mean(expected), rel=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
@torch.no_grad()
def test_the_gains_of_the_logit_lens_add_up_to_the_loss(family):
    model, task = make(family), sums(5, batch_size=3)
    watch, (norm, head) = Watch(model, task), unembedding(model)
    cap = getattr(model.config, "final_logit_softcapping", None)
    start = []
    for text, at, answer in answered(watch):
        logits = head(norm(text["layer", 0][0][0][at]))
        logits = cap * torch.tanh(logits / cap) if cap else logits
        start.append(float(logits.log_softmax(1).gather(1, answer[:, None]).mean()))
    loss = torch.cat([task.loss(task.quantity(model, b)) for b in task.batches()]).mean()
    scores = localize(model, task, "logit_lens", None, signed=True)
    assert scores.layer.sum() == pytest.approx(-float(loss) - np.mean(start), rel=1e-4)


@torch.no_grad()
def test_execution_depth_finds_where_the_answer_appears():
    model, task = make("llama", layers=4), sums(6, batch_size=4)
    norm, head = unembedding(model)
    # A layer that says one token loudly; the tasks' answers all end with the end token.
    model.model.layers[2].mlp.down_proj.weight.data[:] = 0
    direction = head.weight[2] / head.weight[2].norm()
    original = model.model.layers[2].forward
    model.model.layers[2].forward = lambda h, *args, **kwargs: (
        original(h, *args, **kwargs) + 50 * direction / norm.weight
    )
    watch = Watch(model, task)
    counts, total = np.zeros(4), 0
    for text, at, answer in answered(watch):
        tops = [head(norm(text["layer", i][1][0][at])).argmax(1) == answer for i in range(4)]
        for column in range(len(at)):
            total += 1
            first = next((i for i in range(4) if tops[i][column]), None)
            if first is not None:
                counts[first] += 1
    scores = localize(model, task, "execution_depth", None)
    np.testing.assert_allclose(scores.layer, counts / total, rtol=1e-6)
    assert scores.layer[2] > 0.2
    assert scores.meta["never"] == pytest.approx(1 - counts.sum() / total, abs=1e-6)
    assert scores.meta["depth"] == pytest.approx((counts @ np.arange(1, 5)) / counts.sum(), rel=1e-5)


@torch.no_grad()
def test_sensitivity_is_the_divergence_after_the_same_disturbance():
    model, task = make("gpt2"), sums(4, batch_size=3)
    watch = Watch(model, task)
    drawn = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    expected = []
    for i in range(2):
        direction = 0.3 * drawn[i] / drawn[i].norm()
        module = model.get_submodule(watch.anatomy.layer_module(i))

        def disturb(m, args, kwargs, out, d=direction):
            before = args[0] if args else kwargs["hidden_states"]
            after = out[0] if isinstance(out, tuple) else out
            after = after + (after - before).norm(dim=-1, keepdim=True) * d
            return (after, *out[1:]) if isinstance(out, tuple) else after

        handle = module.register_forward_hook(disturb, with_kwargs=True)
        changed = Watch(model, task)
        handle.remove()
        divergence = []
        for (text, at, _), other in zip(answered(watch), changed.texts, strict=True):
            p, q = text["logits"][at].log_softmax(1), other["logits"][at].log_softmax(1)
            divergence.append(float((p.exp() * (p - q)).sum(1).mean()))
        expected.append(np.mean(divergence))
    scores = localize(model, task, "sensitivity", None, noise=0.3, seed=5)
    close(scores.layer, expected, 1e-3)


# -- sets of texts ------------------------------------------------------------------------------------------------------
def test_contrast():
    model, task, other = make("llama"), sums(5, batch_size=3), sums(4, first=7)
    one, two = Watch(model, task), Watch(model, other)
    scores = localize(model, task, "contrast", None, against=other)
    plain = localize(model, task, "contrast", None, against=other, standard=False)
    for kind in scores.kinds:

        def of(i, standard, k=kind):
            a, b = one.tokens(k, i), two.tokens(k, i)
            gap = (a.mean(0) - b.mean(0)).square()
            pooled = (a.var(0, correction=0) + b.var(0, correction=0)) / 2
            return (gap / pooled).mean(-1).sqrt() if standard else gap.sum(-1).sqrt()

        close(scores.of(kind), one.table(kind, lambda i: of(i, True)), 1e-4)
        close(plain.of(kind), one.table(kind, lambda i: of(i, False)), 1e-4)


@pytest.mark.parametrize("tokens", ["answer", "last"])
def test_contrast_of_chosen_tokens(tokens):
    model, task, other = make("llama"), sums(5, batch_size=3), sums(4, first=7)

    def mean(watch, kind, i):
        found = []
        for text, x in zip(watch.texts, watch.each(kind, i), strict=True):
            found.append(x[-1:] if tokens == "last" else x[text["labels"] != -100])
        return torch.cat(found).mean(0)

    one, two = Watch(model, task), Watch(model, other)
    plain = localize(model, task, "contrast", None, against=other, standard=False, tokens=tokens)
    expected = one.table("head", lambda i: (mean(one, "head", i) - mean(two, "head", i)).norm(dim=-1))
    close(plain.head, expected, 1e-4)


def test_contrast_of_a_set_with_itself_is_zero():
    scores = localize(make("llama"), sums(4), "contrast", None, against=sums(4))
    assert all((scores.of(kind) == 0).all() for kind in scores.kinds)


def test_specificity():
    model, task = make("llama"), sums(5, batch_size=3)
    sets = [task, sums(4, first=7), preferences(3)]
    watches = [Watch(model, task), Watch(model, sets[1])]
    third = [Watch(model, sets[2], position) for position in (0, 1)]

    def share(kind, i, watch):
        if kind != "neuron":
            return watch.tokens(kind, i).norm(dim=-1)
        gates = [text["mlp.gate_proj", i][1][0][1:] for text in watch.texts]
        return (torch.cat(gates) > 0).double()

    scores = localize(model, task, "specificity", None, against=sets[1:])
    only = localize(model, task, "specificity", None, against=sets[1:], only=0)
    barred = localize(model, task, "specificity", None, against=sets[1:], bar=0.9)
    for kind in scores.kinds:
        p = np.stack(
            [
                *(w.table(kind, lambda i, k=kind, w=w: share(k, i, w).mean(0)) for w in watches),
                watches[0].table(kind, lambda i, k=kind: torch.cat([share(k, i, w) for w in third]).mean(0)),
            ]
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            q = p / p.sum(0)
            expected = np.nan_to_num(np.log(3) + np.where(q > 0, q * np.log(q), 0).sum(0))
        np.testing.assert_allclose(scores.of(kind), expected, atol=1e-6)
        np.testing.assert_allclose(only.of(kind), expected * (p.argmax(0) == 0), atol=1e-6)
        np.testing.assert_allclose(barred.of(kind), expected * (p.max(0) >= np.quantile(p, 0.9)), atol=1e-6)
    assert (barred.neuron == 0).mean() > 0.5


def test_specificity_of_one_language_neuron():
    """A neuron that fires on one set only is fully specific to it; one that fires everywhere is not."""
    model = make("opt")
    fc1 = model.model.decoder.layers[1].fc1
    fc1.weight.data[3:5] = 0
    fc1.bias.data[3:5] = torch.tensor([1.0, -1.0])  # always, never
    scores = localize(model, sums(4), "specificity", None, against=[sums(4, first=6)])
    assert scores.neuron[1, 3] == pytest.approx(0, abs=1e-7)
    assert scores.neuron[1, 4] == 0


def test_probe_is_the_discriminant_in_closed_form():
    model, sets = make("gpt2"), [sums(7, batch_size=3), sums(5, first=8), sums(6, first=20)]
    watches = [Watch(model, task) for task in sets]
    scores = localize(model, sets[0], "probe", None, against=sets[1:], ridge=0.05)

    def accuracy(kind, i, c):
        x = [np.stack([t[-1, c].numpy() for t in w.each(kind, i)]) for w in watches]
        means = [part[::2].mean(0) for part in x]
        within = sum((part[::2] - m).T @ (part[::2] - m) for part, m in zip(x, means, strict=True))
        within = within / sum(len(part[::2]) for part in x)
        inverse = np.linalg.inv(within + 0.05 * np.diag(within).mean() * np.eye(len(within)))
        right = []
        for label, part in enumerate(x):
            tested = part[1::2]
            margin = np.stack([tested @ inverse @ m - m @ inverse @ m / 2 for m in means])
            right.append((margin.argmax(0) == label).mean())
        return np.mean(right)

    for kind in ("layer", "head"):
        size = watches[0].anatomy.size(kind)
        expected = np.array([[accuracy(kind, i, c) for c in range(size)] for i in range(2)]).squeeze()
        np.testing.assert_allclose(scores.of(kind), expected, atol=1e-6)
    assert scores.meta["chance"] == pytest.approx(1 / 3)
    assert np.ptp(scores.head) > 0


def test_probe_is_held_out():
    """Texts of one kind only, split at random: what is learnt by heart must not count."""
    model = make("llama")
    texts = sums(40)
    one, two = texts.part(range(0, 40, 2)), texts.part(range(1, 40, 2))
    scores = localize(model, one, "probe", None, against=two, ridge=1e-6)
    assert scores.layer.mean() < 0.8


# -- short training -----------------------------------------------------------------------------------------------------
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


# -- weights alone ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_spectra(family):
    model = make(family)
    a, stored = Anatomy.of(model), weights(make(family))
    matrices = {name: w.detach().double().numpy() for name, w in stored.items()}
    rank = localize(model, sums(1), "stable_rank")
    tail = localize(model, sums(1), "tail_exponent", tail=0.25)
    for i in range(a.num_layers):
        spectra = [np.linalg.svd(matrices[a.module(i, n)], compute_uv=False) for n in a.shapes]
        assert rank.layer[i] == pytest.approx(np.mean([(s**2).sum() / s[0] ** 2 for s in spectra]), rel=1e-4)
        alphas = []
        for s in spectra:
            values = s[: max(2, len(s) // 4)] ** 2
            alphas.append(1 + len(values) / np.log(values / values[-1]).sum())
        assert tail.layer[i] == pytest.approx(np.mean(alphas), rel=1e-3)
        out = matrices[a.out_module(i)]
        out = out.T if a.rows_axis else out
        for h in range(a.num_heads):
            s = np.linalg.svd(out[:, 8 * h : 8 * h + 8], compute_uv=False)
            assert rank.head[i, h] == pytest.approx((s**2).sum() / s[0] ** 2, rel=1e-4)
    for rank_kept in (3, 99):
        filtered = {}
        for name, w in matrices.items():
            u, s, v = np.linalg.svd(w, full_matrices=False)
            filtered[name] = torch.from_numpy(np.abs(u[:, :rank_kept] * s[:rank_kept] @ v[:rank_kept]))
        scores = localize(model, sums(1), "low_rank", rank=rank_kept)
        for kind in scores.kinds:
            close(scores.of(kind), all_owned(a, kind, filtered), 1e-4)
