"""Scores of weights and of their gradients against a second, plain computation of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import make
from scoring import all_owned, example_gradients, preferences, same, sums, weights
from watching import close

from guided_ft import localize
from guided_ft.anatomy import Anatomy
from guided_ft.scorers.methods.fisher import ghost_squares


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
            "natural_gain": {"retain": retain},
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
