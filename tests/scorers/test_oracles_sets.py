"""Scores that compare sets of texts against a second, plain computation of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import make
from scoring import preferences, same, sums
from watching import Watch, close

from guided_ft import localize


def test_the_sets_may_be_called_as_they_once_were():
    """``retain`` was ``against``, an option of the methods that compare sets."""
    model, task, others = make("llama"), sums(4), [sums(4, first=6), sums(4, first=12)]
    for method in ("specificity", "probe"):
        found = localize(model, task, method, against=others)
        same(found, localize(model, task, method, retain=others))
        assert [told["hash"] for told in found.meta["options"]["retain"]] == [other.hash for other in others]


def test_a_map_tells_what_a_method_held_the_task_against():
    model, task, others = make("llama"), sums(4, name="task"), [sums(4, first=6), sums(3, first=12, name="more")]
    for method in ("contrast", "natural_gain"):
        found = localize(model, task, method, retain=others[0]).meta
        assert (found["retain"]["hash"], found["retain"]["examples"]) == (others[0].hash, 4)
        assert "combine" not in found
    several = localize(model, task, "specificity", retain=others).meta["retain"]
    assert several["name"] == f"{others[0].name} more"
    assert several["hash"].split() == [other.hash for other in others]
    assert several["examples"] == 7
    assert localize(model, task, "contrast", retain="self").meta["retain"]["name"] == "self"
    assert localize(model, preferences(4), "probe", retain=None).meta["retain"] is None


def test_contrast():
    model, task, other = make("llama"), sums(5, batch_size=3), sums(4, first=7)
    one, two = Watch(model, task), Watch(model, other)
    scores = localize(model, task, "contrast", retain=other)
    plain = localize(model, task, "contrast", retain=other, standard=False)
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
    plain = localize(model, task, "contrast", retain=other, standard=False, tokens=tokens)
    expected = one.table("head", lambda i: (mean(one, "head", i) - mean(two, "head", i)).norm(dim=-1))
    close(plain.head, expected, 1e-4)


def test_contrast_of_a_set_with_itself_is_zero():
    scores = localize(make("llama"), sums(4), "contrast", retain=sums(4))
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

    scores = localize(model, task, "specificity", retain=sets[1:])
    only = localize(model, task, "specificity", retain=sets[1:], only=0)
    barred = localize(model, task, "specificity", retain=sets[1:], bar=0.9)
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
    scores = localize(model, sums(4), "specificity", retain=[sums(4, first=6)])
    assert scores.neuron[1, 3] == pytest.approx(0, abs=1e-7)
    assert scores.neuron[1, 4] == 0


def test_probe_is_the_discriminant_in_closed_form():
    model, sets = make("gpt2"), [sums(7, batch_size=3), sums(5, first=8), sums(6, first=20)]
    watches = [Watch(model, task) for task in sets]
    scores = localize(model, sets[0], "probe", retain=sets[1:], ridge=0.05)

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
    scores = localize(model, one, "probe", retain=two, ridge=1e-6)
    assert scores.layer.mean() < 0.8
