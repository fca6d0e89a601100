"""Models whose layers are not alike: what a layer does not have scores 0, is never chosen, and trains nothing."""

from __future__ import annotations

import numpy as np
import pytest
import scoring
from transformers import AutoConfig

from guided_ft import Plan, ScoreMap, Selection, localize, select
from guided_ft.anatomy import Anatomy, Component
from guided_ft.errors import GuidedError
from guided_ft.proofs.replica import replica_of_config
from guided_ft.scorers.catalogue import CATALOGUE
from guided_ft.scorers.faithfulness import faithfulness

SETTINGS = {
    "lfm2": {"layer_types": ["conv", "full_attention"] * 16},
    "qwen3_moe": {"mlp_only_layers": [1, 3]},
    "nemotron_h": {},
}


@pytest.fixture(params=SETTINGS)
def model(request):
    return replica_of_config(AutoConfig.for_model(request.param, **SETTINGS[request.param]))


def lacking(anatomy: Anatomy, kind: str) -> list[int]:
    return [layer for layer in range(anatomy.num_layers) if not anatomy.has_any(kind, layer)]


def test_every_method_scores_what_is_there_or_refuses_the_model(model):
    anatomy, task, refused = Anatomy.of(model), scoring.pairs(3), []
    assert lacking(anatomy, "head") or lacking(anatomy, "neuron")
    for name, options in scoring.all_methods(scoring.sums(3, first=8)).items():
        kinds = tuple(k for k in CATALOGUE[name].kinds if name != "ablation" or k != "neuron")
        try:
            scores = localize(model, task, name, kinds=kinds, **{"retain": None, **options})
        except GuidedError as error:
            refused.append((name, str(error)))
            continue
        for kind in scores.kinds:
            array = scores.of(kind)
            if kind != "layer":
                assert not array[lacking(anatomy, kind)].any(), name
                assert array[anatomy.layers_of(kind)].any(), name
    assert len(refused) < len(CATALOGUE) / 2, refused
    assert all(": " in words for _, words in refused)
    assert "eap" in dict(refused)


def test_what_is_not_there_is_not_chosen(model):
    anatomy = Anatomy.of(model)
    arrays = {
        kind: np.random.default_rng(0).random((anatomy.num_layers, anatomy.size(kind))) for kind in ("head", "neuron")
    }
    scores = ScoreMap.of_arrays(anatomy, arrays)
    for kind in scores.kinds:
        assert {c.layer for c, _ in scores.top(kind, 10**6)} == set(anatomy.layers_of(kind))
        for whole in (False, True):
            chosen = select(scores, budget=1.0, kinds=(kind,), whole=whole)
            assert set(chosen.components) == set(anatomy.components(kind))
    some = Selection.parse("L*.H0", anatomy)
    assert [c.layer for c in some] == anatomy.layers_of("head")


def test_a_layer_trains_what_is_known_of_it(model):
    anatomy = Anatomy.of(model)
    for mode in ("slice", "freeze"):
        selection = Selection(anatomy, tuple(Component("layer", i) for i in range(anatomy.num_layers)))
        plan = Plan(selection, mode=mode)
        adapted = plan.attach(replica_of_config(model.config))
        trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
        assert trained == plan.expected_trainable


def test_faithfulness_leaves_out_what_is_not_there(model):
    anatomy = Anatomy.of(model)
    scores = ScoreMap(anatomy, head=np.random.default_rng(0).random((anatomy.num_layers, anatomy.num_heads)))
    curve = faithfulness(scores, model, scoring.pairs(3), kind="head", fractions=(0.5, 1.0), draws=1)
    assert curve.counts == [len(anatomy.components("head")) // 2, len(anatomy.components("head"))]
    assert curve.curve[-1] == pytest.approx(1, abs=1e-3)
