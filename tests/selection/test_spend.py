"""Spending a budget on directions: never exceeded, nested, by score per parameter; and the controls."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from drawn import drawn
from families import make
from hostile import damaged, mutated
from transformers import AutoConfig, AutoModelForCausalLM

from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError
from guided_ft.plan.plan import Plan
from guided_ft.selection.selection import Selection
from guided_ft.selection.spend import enough_directions, select_directions
from guided_ft.selection.strategies import DIRECTION_STRATEGIES
from guided_ft.selection.subspace import Subspace
from guided_ft.system.arrays import MAX_ARRAYS


@pytest.fixture(scope="module")
def found():
    return drawn(Anatomy.of(make("llama", layers=3)), count=6, seed=2)


@pytest.fixture(scope="module")
def whole(found) -> int:
    return sum(6 * found.outputs(m) for m in found.modules)


@pytest.mark.parametrize("strategy", DIRECTION_STRATEGIES)
def test_budgets_hold_and_nest(found, whole, strategy):
    before = None
    for budget in [32, 40, 97, 333, 1000, whole]:
        chosen = select_directions(found, budget, strategy, seed=3)
        assert 0 < chosen.num_parameters <= budget
        assert chosen.num_parameters == sum(r * found.outputs(m) for m, r in chosen.ranks.items())
        assert select_directions(found, budget, strategy, seed=3) == chosen
        if before is not None:
            assert all(r <= chosen.ranks[m] for m, r in before.ranks.items())
            if strategy != "shuffled":
                for name, basis in before.bases.items():
                    np.testing.assert_allclose(chosen.bases[name][: len(basis)], basis, atol=1e-6)
        before = chosen
    assert before.num_parameters == whole


def test_top_takes_the_dearest_per_parameter_first(found):
    budget = 500
    chosen = select_directions(found, budget)
    worth = {(m, i): s / found.outputs(m) for m in found.modules for i, s in enumerate(found.scores[m].tolist())}
    taken = {(m, i) for m, r in chosen.ranks.items() for i in range(r)}
    left = max(worth[pair] for pair in worth.keys() - taken)
    assert min(worth[pair] for pair in taken) >= left
    # The next one would not have fitted.
    after = next(m for (m, i), w in worth.items() if w == left)
    assert chosen.num_parameters + found.outputs(after) > budget
    for name, basis in chosen.bases.items():
        assert np.array_equal(basis, found.bases[name][: len(basis)])


def test_even_gives_every_layer_its_best_first(found, whole):
    chosen = select_directions(found, whole // 2, "even")
    assert set(chosen.ranks.values()) <= {3, 4, 2}
    assert max(chosen.ranks.values()) - min(chosen.ranks.values()) <= 1
    assert len(chosen.ranks) == len(found.modules)


def test_random_directions_have_the_ranks_of_the_located_ones(found):
    for located, control in (("top", "random"), ("even", "random_even")):
        there, drawn_at = (select_directions(found, 900, s, seed=1) for s in (located, control))
        assert there.ranks == drawn_at.ranks
        other = select_directions(found, 900, control, seed=2)
        for name, basis in drawn_at.bases.items():
            np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-5)
            assert not np.allclose(basis, other.bases[name])
            assert not np.allclose(basis, found.bases[name][: len(basis)])


def test_shuffled_takes_the_same_projection_of_another_layer(found):
    chosen, top = select_directions(found, 900, "shuffled"), select_directions(found, 900)
    assert chosen.ranks == top.ranks
    anatomy = found.anatomy
    for name, basis in chosen.bases.items():
        donors = [m for m in found.modules if anatomy.relative(m) == anatomy.relative(name)]
        origin = [m for m in donors if np.array_equal(found.bases[m][: len(basis)], basis)]
        assert origin
        assert name not in origin
    alone = drawn(anatomy, names=(anatomy.module(0, "mlp.down_proj"),))
    with pytest.raises(GuidedError, match=r"shuffled: .*down_proj is the only one of its kind"):
        select_directions(alone, 900, "shuffled")


def test_layers_and_components_narrow_the_choice(found):
    late = select_directions(found, 900, first_layer=1)
    assert {found.anatomy.layer_of(m) for m in late.bases} == {1}
    heads = Selection.parse("L1.H*", found.anatomy)
    chosen = select_directions(found, 10_000, within=heads)
    assert set(chosen.bases) == {part.module for part in heads.slices()}
    with pytest.raises(GuidedError, match="no layer among those that are wanted"):
        select_directions(found, 900, first_layer=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 15}, "budget: 15 buys nothing: a direction costs 16"),
        ({"budget": "no"}, "budget: cannot read"),
        ({"strategy": "tpo"}, "strategy"),
        ({"first_layer": 3}, "first_layer: 3"),
    ],
)
def test_bad_input_is_named(found, options, message):
    with pytest.raises(GuidedError, match=message):
        select_directions(found, **options)


def test_a_saved_subspace_comes_back_bit_by_bit(found, tmp_path):
    chosen = select_directions(found, 700)
    chosen.save(tmp_path / "s.json")
    again = Subspace.load(tmp_path / "s.json")
    assert (again, again.how, repr(again)) == (chosen, chosen.how, repr(chosen))
    assert all(np.array_equal(again.bases[name], basis) for name, basis in chosen.bases.items())
    assert again != select_directions(found, 700, "random")


def test_hostile_subspaces_give_only_guided_errors(found, tmp_path):
    path = tmp_path / "s.json"
    select_directions(found, 200).save(path)
    content, good, refused = path.read_bytes(), json.loads(path.read_text()), 0
    for seed in range(300):
        rng = random.Random(seed)
        path.write_bytes(damaged(content, rng))
        if seed % 2:
            path.write_text(json.dumps(mutated(good, rng)))
        try:
            assert repr(Subspace.load(path))
        except GuidedError:
            refused += 1
    assert refused > 150


def test_a_subspace_and_its_arrays_belong_together(found, tmp_path):
    path, arrays = tmp_path / "s.json", tmp_path / "s.safetensors"
    select_directions(found, 200, "random").save(path)
    others = arrays.read_bytes()
    select_directions(found, 200).save(path)
    own, plan = arrays.read_bytes(), Plan(Subspace.load(path), mode="subspace")
    plan.save(tmp_path / "p.json")
    assert (tmp_path / "p.safetensors").read_bytes() == own != others
    for read, name in ((Subspace.load, "s"), (Plan.load, "p")):
        (tmp_path / f"{name}.safetensors").write_bytes(others)
        with pytest.raises(GuidedError, match="subspace: its arrays are not those that it was saved with"):
            read(tmp_path / f"{name}.json")
        (tmp_path / f"{name}.safetensors").unlink()
        with pytest.raises(GuidedError, match=f"{name}.json: without {name}.safetensors, which belongs to it"):
            read(tmp_path / f"{name}.json")


@pytest.mark.parametrize(("budget", "told"), [("90%", True), (None, False)])
def test_a_budget_that_the_map_cannot_spend_is_told(found, whole, budget, told, caplog):
    """``None``: exactly what all of the map's directions take."""
    caplog.set_level("WARNING", logger="guided_ft")
    chosen = select_directions(found, budget or whole)
    assert chosen.num_parameters == whole
    assert ("but all directions of the map take" in caplog.text) == told


SHAPES = {
    "135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152}
    | {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
}


@pytest.mark.parametrize(
    ("size", "budget", "count", "share"),
    [("135m", "3%", 64, 0.03), ("135m", 0.1, 212, 0.1), ("7b", "1%", 122, 0.01), ("7b", "10%", 1215, 0.1)],
)
def test_a_map_is_wide_enough_for_a_budget_and_small_enough_to_be_read(size, budget, count, share):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPES[size]))
    anatomy = Anatomy.of(model)
    names = [anatomy.module(i, name) for i in range(anatomy.num_layers) for name in anatomy.names_in(i)]
    assert enough_directions(anatomy, budget, names) == count
    sizes = [anatomy.outputs_inputs(anatomy.relative(name)) for name in names]
    assert 4 * count * sum(inputs for _, inputs in sizes) < MAX_ARRAYS
    assert count * sum(outputs for outputs, _ in sizes) > share * anatomy.num_parameters
    # Half of the layers want more of each.
    assert enough_directions(anatomy, budget, names[::2]) > count
