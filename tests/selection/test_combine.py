"""Combinations of maps: what each computes, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from families import make
from hypothesis import given
from random_scores import maps

from guided_ft.anatomy import KINDS, Anatomy
from guided_ft.errors import GuidedError
from guided_ft.selection.combine import FLOOR, difference, ratio
from guided_ft.selection.scoremap import ScoreMap


@given(maps, maps)
def test_the_formulas(a, b):
    positive = [ScoreMap(m.anatomy, **{k: np.abs(m.of(k)) for k in KINDS}) for m in (a, b)]
    for kind in KINDS:
        x, y = a.of(kind).astype(float), b.of(kind).astype(float)
        np.testing.assert_allclose(difference(a, b, 0.3).of(kind), x - 0.3 * y, rtol=1e-5, atol=1e-5)
        x, y = np.abs(x), np.abs(y)
        expected = x / (y + FLOOR * y.mean()) if y.any() else x
        np.testing.assert_allclose(ratio(*positive).of(kind), expected, rtol=1e-5)


def test_what_cannot_be_combined_is_refused():
    anatomy, other = Anatomy.of(make("llama")), Anatomy.of(make("gpt2"))
    layers = np.ones(2)
    one, signed = ScoreMap(anatomy, layer=layers), ScoreMap(anatomy, layer=-layers)
    with pytest.raises(GuidedError, match="difference: the maps are of different models"):
        difference(one, ScoreMap(other, layer=layers))
    with pytest.raises(GuidedError, match="difference: one map has layer, another layer, head"):
        difference(one, ScoreMap(anatomy, layer=layers, head=np.ones((2, 4))))
    with pytest.raises(GuidedError, match="ratio: the layer scores are signed"):
        ratio(one, signed)
    assert difference(one, signed).meta["method"] == "difference"
