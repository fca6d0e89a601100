"""``DirectionMap``: what it checks, how it compares, and that its files are read with care."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from drawn import drawn
from families import make
from hostile import damaged, mutated

from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError
from guided_ft.selection.directions import DirectionMap


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return Anatomy.of(make("llama"))


def test_layers_come_in_the_models_order(anatomy):
    found = drawn(anatomy)
    assert found.modules == tuple(anatomy.module(i, rel) for i in (0, 1) for rel in anatomy.shapes)
    assert repr(found) == "DirectionMap(over self: 56 directions in 14 layers of llama)"


def test_print_shows_layers_and_the_best_modules(anatomy):
    found = drawn(anatomy)
    found.meta.update(passes=8, seconds=9.46)
    for scores in found.scores.values():
        scores[:] = [1, 0, 0, 0]
    found.scores[anatomy.module(1, "mlp.down_proj")][:] = [5, 3, 2, 0]
    found.scores[anatomy.module(0, "self_attn.k_proj")][:] = [4, 0, 0, 0]
    lines = str(found).splitlines()
    assert lines[:2] == ["directions, two-sided: 56 directions (8 passes, 9.5 s)", "  layer   ▆█"]
    assert lines[2].startswith("          L1 mlp.down_proj 10  L0 self_attn.k_proj 4  L0 self_attn.q_proj 1  L0 ")
    assert len(lines) == 3


def test_top_goes_by_score_per_parameter(anatomy):
    found = drawn(anatomy)
    wide, narrow = anatomy.module(0, "mlp.down_proj"), anatomy.module(0, "self_attn.k_proj")
    assert (found.outputs(wide), found.outputs(narrow)) == (32, 16)
    found.scores[wide][:] = [30, 0, 0, 0]
    found.scores[narrow][:] = [20, 0, 0, 0]
    assert found.top(2) == [(narrow, 0, 20.0), (wide, 0, 30.0)]


def test_the_scores_add_up_to_those_of_components(anatomy):
    found = drawn(anatomy)
    scores = found.component_scores()
    for i in range(2):
        inside = {m: rows for m, rows in found.rows.items() if f".layers.{i}." in m}
        assert scores.layer[i] == pytest.approx(sum(r.sum() for r in inside.values()), rel=1e-5)
        assert scores.layer[i] == pytest.approx(sum(s.sum() for m, s in found.scores.items() if m in inside), rel=1e-5)
        read = [sum(r.sum() for m, r in inside.items() if part in m) for part in ("q_proj", "k_proj", "v_proj")]
        assert scores.head[i].sum() == pytest.approx(sum(read), rel=1e-5)
        up = sum(r for m, r in inside.items() if "gate" in m or "up" in m)
        np.testing.assert_allclose(scores.neuron[i], up, rtol=1e-5)
    # Two query heads of 8 rows each share the keys and values of a group.
    q, k, v = (found.rows[anatomy.module(1, f"self_attn.{part}_proj")] for part in "qkv")
    assert scores.head[1, 3] == pytest.approx(q[24:].sum() + (k[8:].sum() + v[8:].sum()) / 2, rel=1e-5)


def test_compare_knows_spaces_and_not_their_bases(anatomy):
    name = anatomy.module(0, "mlp.down_proj")
    a = drawn(anatomy, names=(name,))
    turned, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))
    b = DirectionMap(anatomy, {name: (turned @ a.bases[name]).astype(np.float32)}, a.scores, a.rows)
    assert a.compare(b, 4)["overlap"] == pytest.approx(1, abs=1e-6)
    assert a.compare(b, 4)["angle"] < 0.01
    # Half of the space is another one, at a right angle.
    basis = np.eye(48, dtype=np.float32)
    ends = [DirectionMap(anatomy, {name: basis[i : i + 4]}, a.scores, a.rows) for i in (0, 2)]
    assert ends[0].compare(ends[1], 4) == pytest.approx({"overlap": 0.5, "angle": 90})
    with pytest.raises(GuidedError, match="no layer in common"):
        a.compare(drawn(anatomy, names=(anatomy.module(1, "mlp.down_proj"),)))


def test_a_saved_map_comes_back(anatomy, tmp_path):
    found = drawn(anatomy)
    found.save(tmp_path / "d.safetensors")
    again = DirectionMap.load(tmp_path / "d.safetensors")
    assert again.hash == found.hash
    assert again.meta == found.meta
    assert again.anatomy == anatomy
    assert again.modules == found.modules
    other = drawn(anatomy, seed=1)
    assert other.hash != found.hash


def _with(found: DirectionMap, name: str, **changed) -> DirectionMap:
    parts = {part: dict(getattr(found, part)) for part in ("bases", "scores", "rows")}
    for part, array in changed.items():
        parts[part][name] = array
    return DirectionMap(found.anatomy, **parts)


def test_what_is_no_map_is_refused_by_name(anatomy):
    found, name = drawn(anatomy), anatomy.module(0, "mlp.down_proj")
    basis, scores, rows = found.bases[name], found.scores[name], found.rows[name]
    with pytest.raises(GuidedError, match="the map is empty"):
        DirectionMap(anatomy, {}, {}, {})
    with pytest.raises(GuidedError, match="lm_head has not all of a basis, scores and rows"):
        _with(found, "lm_head", bases=basis)
    with pytest.raises(GuidedError, match="no layer 'lm_head'"):
        _with(found, "lm_head", bases=basis, scores=scores, rows=rows)
    for part, wrong, message in (
        ("bases", basis.astype(np.float64), "expected float32"),
        ("bases", basis[:, :-1].copy(), r"the layer needs \[k, 48\]"),
        ("bases", basis[:3].copy(), r"scores of .* expected float32 \(3,\)"),
        ("bases", basis * 2, "not of length 1"),
        ("bases", np.full_like(basis, np.nan), "not finite"),
        ("scores", scores[::-1].copy(), "they rise"),
        ("scores", scores - 2, "not finite, or negative"),
        ("rows", rows[:-1].copy(), r"rows of .* expected float32 \(32,\)"),
        ("rows", rows - 2, "not finite, or negative"),
    ):
        with pytest.raises(GuidedError, match=message):
            _with(found, name, **{part: wrong})


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_hostile_files_give_only_guided_errors(anatomy, tmp_path):
    path, beside = tmp_path / "d.safetensors", tmp_path / "d.json"
    drawn(anatomy, names=(anatomy.module(0, "mlp.down_proj"), anatomy.module(1, "self_attn.q_proj"))).save(path)
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
            again = DirectionMap.load(path)
            assert repr(again)
            assert again.top(3)
        except GuidedError:
            refused += 1
    assert refused > 150


def test_surplus_arrays_are_refused(anatomy, tmp_path):
    from safetensors.numpy import save_file

    drawn(anatomy).save(tmp_path / "d.safetensors")
    save_file({"model.layers.0.mlp.down_proj.evil": np.zeros(3)}, tmp_path / "d.safetensors")
    with pytest.raises(GuidedError, match=r"unknown array '.*evil'"):
        DirectionMap.load(tmp_path / "d.safetensors")
