"""``DirectionMap``: what it checks, how it compares, and that its files are read with care."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from families import make
from hostile import damaged, mutated

from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError
from guided_ft.selection.directions import DirectionMap


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return Anatomy.of(make("llama"))


def drawn(anatomy: Anatomy, count: int = 4, seed: int = 0, names: tuple[str, ...] = ()) -> DirectionMap:
    rng = np.random.default_rng(seed)
    bases, scores = {}, {}
    for name in names or [anatomy.module(i, rel) for i in (1, 0) for rel in anatomy.shapes]:
        inputs = anatomy.outputs_inputs(anatomy.relative(name))[1]
        bases[name] = np.linalg.qr(rng.normal(size=(inputs, count)))[0].T.astype(np.float32)
        scores[name] = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
    return DirectionMap(anatomy, bases, scores, {"method": "directions", "retain": {"name": "self"}})


def test_layers_come_in_the_models_order(anatomy):
    found = drawn(anatomy)
    assert found.modules == tuple(anatomy.module(i, rel) for i in (0, 1) for rel in anatomy.shapes)
    assert repr(found) == "DirectionMap(over self: 56 directions in 14 layers of llama)"


def test_top_goes_by_score_per_parameter(anatomy):
    found = drawn(anatomy)
    wide, narrow = anatomy.module(0, "mlp.down_proj"), anatomy.module(0, "self_attn.k_proj")
    assert (found.outputs(wide), found.outputs(narrow)) == (32, 16)
    found.scores[wide][:] = [30, 0, 0, 0]
    found.scores[narrow][:] = [20, 0, 0, 0]
    assert found.top(2) == [(narrow, 0, 20.0), (wide, 0, 30.0)]
    sums = found.layer_scores()
    assert sums[0] == pytest.approx(sum(s.sum() for m, s in found.scores.items() if ".layers.0." in m))
    assert sums[1] == pytest.approx(sum(s.sum() for m, s in found.scores.items() if ".layers.1." in m))


def test_compare_knows_spaces_and_not_their_bases(anatomy):
    name = anatomy.module(0, "mlp.down_proj")
    a = drawn(anatomy, names=(name,))
    turned, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))
    b = DirectionMap(anatomy, {name: (turned @ a.bases[name]).astype(np.float32)}, a.scores)
    assert a.compare(b, 4)["overlap"] == pytest.approx(1, abs=1e-6)
    assert a.compare(b, 4)["angle"] < 0.01
    # Half of the space is another one, at a right angle.
    basis = np.eye(48, dtype=np.float32)
    ends = [DirectionMap(anatomy, {name: basis[i : i + 4]}, a.scores) for i in (0, 2)]
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


def _with(found: DirectionMap, name: str, basis=None, scores=None) -> DirectionMap:
    bases = dict(found.bases) | ({} if basis is None else {name: basis})
    return DirectionMap(found.anatomy, bases, dict(found.scores) | ({} if scores is None else {name: scores}))


def test_what_is_no_map_is_refused_by_name(anatomy):
    found, name = drawn(anatomy), anatomy.module(0, "mlp.down_proj")
    basis, scores = found.bases[name], found.scores[name]
    with pytest.raises(GuidedError, match="the map is empty"):
        DirectionMap(anatomy, {}, {})
    with pytest.raises(GuidedError, match="lm_head has a basis without scores"):
        _with(found, "lm_head", basis)
    with pytest.raises(GuidedError, match="no layer 'lm_head'"):
        _with(found, "lm_head", basis, scores)
    for wrong, message in (
        (basis.astype(np.float64), "expected float32"),
        (basis[:, :-1].copy(), r"the layer needs \[k, 48\]"),
        (basis[:3].copy(), r"its directions need float32 \(3,\)"),
        (basis * 2, "not of length 1"),
        (np.full_like(basis, np.nan), "not finite"),
    ):
        with pytest.raises(GuidedError, match=message):
            _with(found, name, wrong)
    for wrong in (scores[::-1].copy(), scores - 2):
        with pytest.raises(GuidedError, match="negative or rising"):
            _with(found, name, scores=wrong)


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
