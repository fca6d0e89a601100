"""Screen and verify, and how much a map says about its own noise."""

from __future__ import annotations

import json
import time
import warnings

import numpy as np
import pytest
import tiny
from families import make
from scoring import pairs

from guided_ft.anatomy import Component
from guided_ft.errors import GuidedError
from guided_ft.scorers import catalogue
from guided_ft.scorers.localize import localize
from guided_ft.scorers.stability import stability, warn_if_unstable
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.task.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:.*two halves of the")


def task_of(count: int = 6, **options) -> Task:
    return Task.from_dataset(tiny.sums(count), tiny.tokenizer(), **options)


@pytest.mark.parametrize("options", [{}, {"signed": True}, {"replace": "mean"}])
def test_verified_components_have_their_exact_effect(options):
    model, task = make("llama", layers=3), task_of()
    scores = localize(model, task, "attribution", retain=None, kinds=("head", "neuron"), verify=7, **options)
    truth = localize(model, task, "ablation", retain=None, kinds=("head", "neuron"), **options)
    for kind in ("head", "neuron"):
        found = scores.meta["verified"][kind]
        components = [Component.parse(name) for name in found["components"]]
        assert len(set(components)) == 7
        assert components[:6] == [c for c, _ in scores.top(kind, 6)]
        assert components[6] not in [c for c, _ in scores.top(kind, 7)][:6]
        assert found["exact"] == pytest.approx([truth.score(c) for c in components], rel=1e-3, abs=1e-6)
        assert found["screened"] == pytest.approx([scores.score(c) for c in components], rel=1e-5)
        exact = np.array(found["exact"])
        assert found["pearson"] == pytest.approx(np.corrcoef(exact, found["screened"])[0, 1], abs=1e-4)


def test_a_path_from_the_corrupted_prompt_is_verified_by_patching_it():
    model, task = make("llama"), pairs(6)
    options = {"retain": None, "kinds": ("head",), "signed": True}
    scores = localize(model, task, "integrated_gradients", baseline="corrupted", verify=5, **options)
    truth = localize(model, task, "ablation", replace="corrupted", **options)
    found = scores.meta["verified"]["head"]
    assert found["replace"] == "corrupted"
    exact = [truth.score(Component.parse(name)) for name in found["components"]]
    assert found["exact"] == pytest.approx(exact, rel=1e-3, abs=1e-6)


def test_the_seconds_of_a_map_include_verification(monkeypatch):
    from guided_ft.scorers import localize as module

    slow, verified = 1.0, module.verified

    def slowly(*args, **options):
        time.sleep(slow)
        return verified(*args, **options)

    monkeypatch.setattr(module, "verified", slowly)
    model, task = make("llama"), task_of()
    first, both = (localize(model, task, "magnitude", kinds=("head",), verify=n).meta["seconds"] for n in (0, 2))
    assert both >= slow > first


def test_it_is_json_and_comes_back(tmp_path):
    scores = localize(make("gpt2"), task_of(), "attribution", retain=None, kinds=("head",), verify=3)
    scores.save(tmp_path / "scores.safetensors")
    again = ScoreMap.load(tmp_path / "scores.safetensors")
    assert again.meta["verified"] == scores.meta["verified"] == json.loads(json.dumps(scores.meta["verified"]))


def test_a_two_sided_map_is_compared_by_its_task_side():
    model, task, retain = make("llama"), task_of(), Task.from_dataset(tiny.sums(9)[6:], tiny.tokenizer())
    both = localize(model, task, "attribution", retain=retain, kinds=("head",), verify=5)
    one = localize(model, task, "attribution", retain=None, kinds=("head",))
    found = both.meta["verified"]["head"]
    assert found["components"][:4] == [str(c) for c, _ in both.top("head", 4)]
    assert found["screened"] == pytest.approx([one.score(Component.parse(c)) for c in found["components"]], rel=1e-5)


def test_misses_show_in_the_sample(monkeypatch):
    """A screen that ranks upside down: its top is worthless, and the sample says so."""
    model, task = make("llama", layers=6), task_of()
    truth = localize(model, task, "ablation", retain=None, kinds=("head",))

    def upside_down(model, anatomy, task, *, kinds, progress=None):
        return ScoreMap(anatomy, head=-truth.head)

    monkeypatch.setattr(catalogue, "CATALOGUE", dict(catalogue.CATALOGUE))
    catalogue.register("upside_down", upside_down)
    catalogue.register(
        "truth", lambda model, anatomy, task, *, kinds, progress=None: ScoreMap(anatomy, head=truth.head)
    )
    bad, good = (
        localize(model, task, name, retain=None, kinds=("head",), verify=10).meta["verified"]["head"]
        for name in ("upside_down", "truth")
    )
    assert len(bad["misses"]) == 2
    # Four of eight reach their own median; both of the two sampled do, and stand for all 16 others.
    assert bad["recall"] == pytest.approx(4 / (4 + 16))
    assert bad["spearman"] == pytest.approx(-1, abs=0.01)
    assert good["recall"] == 1
    assert good["misses"] == []
    assert good["spearman"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("verify", "top", "sampled"), [(1, 1, 0), (2, 1, 1), (5, 4, 1), (9, 8, 1), (10, 8, 2)])
def test_the_sample_is_a_part_of_the_number(verify, top, sampled):
    scores = localize(make("llama", layers=3), task_of(1), "magnitude", kinds=("head",), verify=verify)
    found = scores.meta["verified"]["head"]
    assert found["top"] == top
    assert len(set(found["components"])) == len(found["components"]) == top + sampled
    best = [str(c) for c, _ in scores.top("head", top)]
    assert found["components"][:top] == best
    assert not set(found["components"][top:]) & set(best)


def test_more_than_there_is_verifies_all():
    model = make("llama")
    found = localize(model, task_of(), "attribution", retain=None, kinds=("layer",), verify=50).meta["verified"]
    assert sorted(found["layer"]["components"]) == ["L0", "L1"]
    assert found["layer"]["recall"] == 1


def test_the_sample_is_seeded():
    model = make("llama", layers=4)
    a, b, c = (
        localize(model, task_of(2), "attribution", retain=None, kinds=("neuron",), verify=4, seed=seed).meta["verified"]
        for seed in (0, 0, 1)
    )
    assert a == b
    assert a["neuron"]["components"] != c["neuron"]["components"]


@pytest.mark.parametrize("verify", [-1, True, 2.5, "10"])
def test_bad_counts_are_refused(verify):
    with pytest.raises(GuidedError, match="verify: expected a number of components"):
        localize(make("llama"), task_of(1), "attribution", retain=None, verify=verify)


# -- stability --------------------------------------------------------------------------------------------------------
def test_stability_is_the_rank_correlation_of_the_halves():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 50))
    a, b = (truth + noise * rng.normal(size=truth.shape) for noise in (1, 1))
    found = stability({"head": a, "neuron": a}, {"head": 3 * b, "neuron": a})
    assert found["neuron"] == {"split_half": 1.0, "pearson": 1.0, "ceiling": 1.0}
    assert found["head"]["split_half"] == pytest.approx(0.5, abs=0.05)
    # The ceiling predicts how the mean of both halves correlates with the truth.
    reached = np.corrcoef((a + b).ravel(), truth.ravel())[0, 1]
    assert found["head"]["ceiling"] == pytest.approx(reached, abs=0.03)
    assert stability({"head": a}, {"head": -a})["head"]["ceiling"] == 0


def test_ablation_halves_are_the_examples_with_even_and_odd_number():
    model, task = make("llama"), task_of(7, batch_size=3)
    scores = localize(model, task, "ablation", retain=None, kinds=("head",))
    halves = [localize(model, task.part(range(i, 7, 2)), "ablation", retain=None, kinds=("head",)) for i in (0, 1)]
    assert scores.meta["stability"]["head"]["split_half"] == pytest.approx(
        halves[0].compare(halves[1], "head")["spearman"], abs=1e-3
    )
    assert "stability" in localize(model, task, "ablation", kinds=("head",)).meta


def test_unstable_maps_warn_once_and_stable_ones_do_not():
    meta = {"method": "ablation", "task": {"examples": 6}}
    with pytest.warns(UserWarning, match=r"ablation: two halves of the 6 examples .*\(rank correlation: head 0.21\)"):
        warn_if_unstable(meta | {"stability": {"head": {"split_half": 0.21}, "layer": {"split_half": 0.8}}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_unstable(meta | {"stability": {"head": {"split_half": 0.5}}})
        warn_if_unstable(meta)


def test_localize_warns(monkeypatch):
    def noisy(model, anatomy, task, *, kinds, progress=None):
        return ScoreMap(anatomy, layer=[1, 2], meta={"stability": {"layer": {"split_half": -0.3}}})

    monkeypatch.setattr(catalogue, "CATALOGUE", dict(catalogue.CATALOGUE))
    catalogue.register("noisy", noisy)
    with pytest.warns(UserWarning, match="noisy: two halves"):
        localize(make("llama"), task_of(1), "noisy", retain=None, kinds=("layer",))


def test_a_map_says_what_it_measured():
    task = task_of(4)
    meta = localize(make("llama"), task, "ablation", retain=None, kinds=("layer",), replace="mean").meta
    assert meta["task"] == {"name": "task", "hash": task.hash, "examples": 4, "metric": "loss"}
    assert meta["replace"] == "mean"
