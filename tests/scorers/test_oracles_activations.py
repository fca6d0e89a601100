"""Scores of activations against a second, plain computation of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import make
from scoring import all_owned, sums
from watching import Watch, close

from guided_ft import localize
from guided_ft.anatomy import Anatomy
from guided_ft.scorers.watch.scene import Scene
from guided_ft.scorers.watch.tap import Tap


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
