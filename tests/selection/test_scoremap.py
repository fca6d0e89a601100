"""ScoreMap: shapes, finite numbers, files, order and comparison."""

from __future__ import annotations

import json
import math
import random
import re

import families
import numpy as np
import pytest
from hostile import damaged, mutated

from guided_ft.anatomy import Anatomy, Component
from guided_ft.errors import GuidedError
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.system.arrays import write_arrays

ANATOMY = Anatomy.of(families.make("llama"))


@pytest.fixture
def scores() -> ScoreMap:
    rng = np.random.default_rng(0)
    arrays = {"layer": rng.normal(size=2), "head": rng.normal(size=(2, 4)), "neuron": rng.normal(size=(2, 48))}
    return ScoreMap(ANATOMY, **arrays, meta={"method": "by-hand", "seconds": 1.5})


def of_heads(*values: float) -> ScoreMap:
    return ScoreMap(ANATOMY, head=np.array(values, dtype=np.float64).reshape(2, 4))


def refuses(message: str):
    return pytest.raises(GuidedError, match=f"^{re.escape(message)}$")


# -- shapes and numbers ------------------------------------------------------------------------------------------------
def test_arrays_are_kept_as_float32(scores):
    assert (scores.layer.shape, scores.head.shape, scores.neuron.shape) == ((2,), (2, 4), (2, 48))
    assert {scores.of(kind).dtype for kind in scores.kinds} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("kind", "shape", "needed"),
    [("layer", (2, 1), (2,)), ("layer", (3,), (2,)), ("head", (4, 2), (2, 4)), ("neuron", (96,), (2, 48))],
)
def test_wrong_shapes_are_refused(kind, shape, needed):
    with refuses(f"scores.{kind}: shape {shape}, but this model needs {needed}"):
        ScoreMap(ANATOMY, **{kind: np.zeros(shape)})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    head = np.zeros((2, 4))
    head[1, 2] = bad
    with refuses("scores.head: not finite at [1, 2] (check the data and the model's dtype)"):
        ScoreMap(ANATOMY, head=head)


def test_only_scored_kinds_can_be_asked_for():
    scores = of_heads(*range(8))
    assert scores.kinds == ("head",)
    with refuses("kinds: this map has no scores for 'neuron' (it has: head)"):
        scores.of("neuron")


def test_score_of_one_component(scores):
    assert scores.score(Component("head", 1, 2)) == scores.head[1, 2]
    assert scores.score(Component("neuron", 0, 47)) == scores.neuron[0, 47]
    assert scores.score(Component("layer", 1)) == scores.layer[1]
    with refuses("L1.H4: this model has 4 heads in layer 1 (L1.H0 to L1.H3)"):
        scores.score(Component("head", 1, 4))


# -- order -------------------------------------------------------------------------------------------------------------
def test_top_is_sorted_and_ties_go_by_name():
    named = [(str(c), s) for c, s in of_heads(0, 5, 1, 5, 7, 1, 0, 5).top("head", 6)]
    assert named == [("L1.H0", 7), ("L0.H1", 5), ("L0.H3", 5), ("L1.H3", 5), ("L0.H2", 1), ("L1.H1", 1)]


def test_top_of_layers_and_of_more_than_there_are(scores):
    assert [c for c, _ in scores.top("layer", 9)] == sorted(ANATOMY.components("layer"), key=lambda c: -scores.score(c))
    assert len(scores.top("head", 100)) == 8


# -- comparison --------------------------------------------------------------------------------------------------------
def spearman_by_hand(a, b) -> float:
    """Mean ranks by counting, then the textbook correlation."""

    def ranks(values):
        return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]

    x, y = ranks(a), ranks(b)
    mean = (len(a) - 1) / 2
    top = sum((i - mean) * (j - mean) for i, j in zip(x, y, strict=True))
    return top / math.sqrt(sum((i - mean) ** 2 for i in x) * sum((j - mean) ** 2 for j in y))


def test_spearman_without_ties_counted_on_paper():
    # Two pairs of neighbours change places: four rank differences of 1, and 1 - 6 * 4 / (8 * 63).
    compared = of_heads(1, 2, 3, 4, 5, 6, 7, 9).compare(of_heads(1, 3, 2, 4, 5, 6, 9, 7), "head")
    assert compared["spearman"] == pytest.approx(1 - 24 / 504)
    assert of_heads(*range(8)).compare(of_heads(*range(8)[::-1]), "head")["spearman"] == pytest.approx(-1)


@pytest.mark.parametrize("seed", range(20))
def test_spearman_and_pearson_with_ties(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 4, 8), rng.integers(0, 4, 8)
    a[0], a[1], b[0], b[1] = 0, 1, 2, 3
    compared = of_heads(*a).compare(of_heads(*b), "head")
    assert compared["spearman"] == pytest.approx(spearman_by_hand(a.tolist(), b.tolist()), abs=1e-12)
    assert compared["pearson"] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)


def test_comparison_ignores_a_large_common_offset():
    a, b = np.arange(8) / 64, np.array([3, 1, 4, 1, 5, 9, 2, 6]) / 64
    far = of_heads(*(a + 1e5)).compare(of_heads(*(b + 1e5)), "head")
    assert far["pearson"] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 1e-30, 12345.678])
def test_constant_scores_correlate_with_nothing(constant):
    compared = of_heads(*[constant] * 8).compare(of_heads(*range(8)), "head")
    assert compared["spearman"] == compared["pearson"] == 0
    neurons = ScoreMap(ANATOMY, neuron=np.full((2, 48), constant))
    assert neurons.compare(neurons, "neuron")["pearson"] == 0


def test_overlap_is_a_share_of_the_top():
    a, b = of_heads(9, 8, 7, 6, 0, 0, 0, 0), of_heads(0, 0, 9, 8, 7, 6, 0, 0)
    assert a.compare(b, "head", k=4)["overlap"] == 0.5
    assert a.compare(b, "head", k=100)["overlap"] == 1
    assert a.compare(a, "head", k=3) == {"spearman": 1, "pearson": pytest.approx(1), "overlap": 1}


def test_maps_of_other_models_do_not_compare_though_they_have_as_many_heads():
    a, b = (ScoreMap(Anatomy.of(families.make(name)), head=np.ones((2, 4))) for name in ("llama", "gpt2"))
    with refuses("compare: the maps are of different models"):
        a.compare(b, "head")


def test_maps_of_different_sizes_do_not_compare(scores):
    other = Anatomy.of(families.make("llama", layers=3))
    with refuses("compare: 8 against 12 heads (the maps are of different models)"):
        scores.compare(ScoreMap(other, head=np.zeros((3, 4))), "head")


# -- files -------------------------------------------------------------------------------------------------------------
def test_save_and_load_give_the_same(scores, tmp_path):
    scores.save(tmp_path / "scores.safetensors")
    again = ScoreMap.load(tmp_path / "scores.safetensors")
    assert again.anatomy == scores.anatomy
    assert again.meta == scores.meta
    assert again.kinds == scores.kinds
    for kind in scores.kinds:
        assert again.of(kind).tobytes() == scores.of(kind).tobytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.json", "scores.safetensors"]


def test_names_that_differ_after_a_dot_do_not_share_their_provenance(scores, tmp_path):
    for name in ("attribution", "magnitude"):
        ScoreMap(scores.anatomy, layer=scores.layer, meta={"method": name}).save(tmp_path / f"map.{name}")
    assert [ScoreMap.load(tmp_path / f"map.{n}").meta["method"] for n in ("attribution", "magnitude")] == [
        "attribution",
        "magnitude",
    ]
    # As they were written before.
    (tmp_path / "map.magnitude.json").rename(tmp_path / "map.json")
    assert ScoreMap.load(tmp_path / "map.magnitude").meta["method"] == "magnitude"


def test_provenance_that_cannot_be_saved_spoils_nothing(scores, tmp_path):
    path = tmp_path / "s.safetensors"
    scores.save(path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="not JSON compliant"):
        ScoreMap(ANATOMY, head=np.ones((2, 4)), meta={"loss": math.nan}).save(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_kinds_that_were_not_scored_stay_missing(tmp_path):
    of_heads(*range(8)).save(tmp_path / "s.safetensors")
    assert ScoreMap.load(tmp_path / "s.safetensors").kinds == ("head",)


def test_repr_tells_method_and_sizes(scores):
    assert repr(scores) == "ScoreMap(by-hand: 2 layers, 8 heads, 96 neurons of llama)"


def test_missing_files_are_named(scores, tmp_path):
    path = tmp_path / "scores.safetensors"
    with refuses(f"{tmp_path / 'scores.json'}: cannot be read (No such file or directory)"):
        ScoreMap.load(path)
    scores.save(path)
    path.unlink()
    with refuses(f"{path}: cannot be read (No such file or directory)"):
        ScoreMap.load(path)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_hostile_files_give_only_guided_errors(scores, tmp_path):
    path, beside = tmp_path / "s.safetensors", tmp_path / "s.json"
    scores.save(path)
    arrays, text = path.read_bytes(), beside.read_bytes()
    good = json.loads(text)
    refused = 0
    for seed in range(300):
        rng = random.Random(seed)
        path.write_bytes(damaged(arrays, rng) if seed % 3 == 0 else arrays)
        beside.write_bytes(damaged(text, rng) if seed % 3 == 1 else text)
        if seed % 3 == 2:
            beside.write_text(json.dumps(mutated(good, rng)))
        try:
            again = ScoreMap.load(path)
            assert repr(again)
            assert all(len(again.top(kind, 3)) for kind in again.kinds)
        except GuidedError:
            refused += 1
    assert refused > 150


def test_surplus_arrays_are_refused(scores, tmp_path):
    from safetensors.numpy import save_file

    scores.save(tmp_path / "s.safetensors")
    save_file({"evil": np.zeros(3)}, tmp_path / "s.safetensors")
    with refuses(f"{tmp_path / 's.safetensors'}: unknown array 'evil' (make it again, or get an undamaged copy)"):
        ScoreMap.load(tmp_path / "s.safetensors")


def test_a_long_name_in_a_file_makes_no_long_line(tmp_path):
    made = ScoreMap(ANATOMY, layer=np.zeros(2))
    made.save(tmp_path / "m.safetensors")
    write_arrays(tmp_path / "m.safetensors", {"x" * 5000: np.zeros(2)})
    with pytest.raises(GuidedError, match=r"unknown array 'x{80}' \(make it again") as caught:
        ScoreMap.load(tmp_path / "m.safetensors")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("meta", [{"passes": 3, "seconds": {}}, {"passes": [], "seconds": 1.0}, {"passes": 3}])
def test_odd_provenance_is_left_out_of_the_text(meta):
    assert "passes" not in str(ScoreMap(ANATOMY, layer=np.zeros(2), meta=meta))
