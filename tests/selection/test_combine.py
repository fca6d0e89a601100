"""Combinations of maps: what each computes, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from families import make
from hypothesis import given
from random_scores import maps

from guided_ft.anatomy import KINDS, Anatomy
from guided_ft.errors import GuidedError
from guided_ft.selection.combine import FLOOR, difference, mean, product, rank_average, ratio
from guided_ft.selection.scoremap import ScoreMap


@given(maps, maps)
def test_the_formulas(a, b):
    positive = [ScoreMap(m.anatomy, **{k: np.abs(m.of(k)) for k in KINDS}) for m in (a, b)]
    for kind in KINDS:
        x, y = a.of(kind).astype(float), b.of(kind).astype(float)
        np.testing.assert_allclose(difference(a, b, 0.3).of(kind), x - 0.3 * y, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mean([a, b, b]).of(kind), (x + 2 * y) / 3, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(product([a, b]).of(kind), x * y, rtol=1e-5)
        x, y = np.abs(x), np.abs(y)
        expected = x / (y + FLOOR * y.mean()) if y.any() else x
        np.testing.assert_allclose(ratio(*positive).of(kind), expected, rtol=1e-5)


@given(maps, maps)
def test_rank_averages_do_not_know_units(a, b):
    both = rank_average([a, b])
    scaled = ScoreMap(a.anatomy, **{k: np.exp(a.of(k) / 10.0) for k in KINDS})
    for kind in KINDS:
        np.testing.assert_allclose(rank_average([scaled, b]).of(kind), both.of(kind), atol=1e-6)
        assert both.of(kind).min() >= 0
        assert both.of(kind).max() <= 1
        assert both.of(kind).mean() == pytest.approx(0.5)
    alone = rank_average([a])
    order = np.argsort(a.neuron.ravel(), kind="stable")
    assert (np.diff(alone.neuron.ravel()[order]) >= 0).all()


def test_what_cannot_be_combined_is_refused():
    anatomy, other = Anatomy.of(make("llama")), Anatomy.of(make("gpt2"))
    layers = np.ones(2)
    one, signed = ScoreMap(anatomy, layer=layers), ScoreMap(anatomy, layer=-layers)
    with pytest.raises(GuidedError, match="mean: no maps to combine"):
        mean([])
    with pytest.raises(GuidedError, match="product: the maps are of different models"):
        product([one, ScoreMap(other, layer=layers)])
    with pytest.raises(GuidedError, match="difference: one map has layer, another layer, head"):
        difference(one, ScoreMap(anatomy, layer=layers, head=np.ones((2, 4))))
    with pytest.raises(GuidedError, match="ratio: the layer scores are signed"):
        ratio(one, signed)
    assert mean([one, signed]).meta["method"] == "mean"
