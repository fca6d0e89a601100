"""Selections are sets of components that survive text and files."""

from __future__ import annotations

import json
import random
import re
import tempfile
from pathlib import Path

import families
import pytest
from hostile import mutated
from hypothesis import given, settings
from hypothesis import strategies as st
from random_scores import ANATOMY, TOTAL, bought, counts, kind_sets, maps, score_map

from guided_ft.anatomy import KINDS, Anatomy, Component
from guided_ft.errors import GuidedError
from guided_ft.selection.budget import select
from guided_ft.selection.how import How
from guided_ft.selection.selection import Selection

COMPONENTS = [c for kind in KINDS for c in ANATOMY.components(kind)]
MANY = settings(max_examples=300, deadline=None)
SOME = settings(max_examples=100, deadline=None)
selections = st.builds(
    lambda parts: Selection(ANATOMY, tuple(parts)), st.lists(st.sampled_from(COMPONENTS), max_size=30)
)


def refuses(message: str):
    return pytest.raises(GuidedError, match=f"^{re.escape(message)}$")


# -- set algebra -------------------------------------------------------------------------------------------------------
@MANY
@given(selections, selections, selections)
def test_algebra(a, b, c):
    assert a | b == b | a
    assert a & b == b & a
    assert (a | b) | c == a | (b | c)
    assert (a & b) & c == a & (b & c)
    assert a & (b | c) == (a & b) | (a & c)
    assert a | (b & c) == (a | b) & (a | c)
    assert a - b <= a
    assert len((a - b) & b) == 0
    assert (a - b) | (a & b) == a
    assert a | a == a & a == a
    assert (a <= b) == (a | b == b) == (a & b == a) == (set(a) <= set(b))
    assert a & b <= a <= a | b
    assert set(a | b) == set(a) | set(b)
    assert hash(a | b) == hash(b | a)


@SOME
@given(selections)
def test_a_selection_is_sorted_without_repeats(a):
    assert list(a) == sorted(set(a))
    assert len(a) == len(set(a)) == sum(a.counts().values())
    assert all(component in a for component in a)
    assert Selection(ANATOMY, tuple(reversed(a.components)) * 2) == a
    assert a.slices() == ANATOMY.trainable(a.components)
    assert a.fraction == a.num_parameters / TOTAL


def test_scores_travel_through_the_algebra():
    h0, h1 = Component("head", 0, 0), Component("head", 0, 1)
    a, b = Selection(ANATOMY, (h0,), scores={h0: 1.0}), Selection(ANATOMY, (h0, h1), scores={h0: 5.0, h1: 2.0})
    assert (a | b).scores == {h0: 1.0, h1: 2.0}
    assert (b - a).scores == {h1: 2.0}


def test_selections_of_different_models_do_not_mix():
    a = Selection.parse("L0.H0", ANATOMY)
    b = Selection.parse("L0.H0", Anatomy.of(families.make("qwen2")))
    assert a != b
    for operation, name in ((Selection.__or__, "|"), (Selection.__and__, "&"), (Selection.__sub__, "-")):
        with refuses(f"selection {name}: the two selections are of different models"):
            operation(a, b)


# -- text and files ----------------------------------------------------------------------------------------------------
@MANY
@given(selections.filter(len))
def test_text_is_read_back(a):
    assert Selection.parse(a.text, ANATOMY) == a
    assert Selection.parse(", ".join(map(str, reversed(a.components))), ANATOMY) == a


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("L1", "L1"),
        ("L*", "L0 L1"),
        ("L0.H3,L0.H3  L1.N7\n", "L0.H3 L1.N7"),
        ("L*.H2", "L0.H2 L1.H2"),
        ("L1.H*", "L1.H0 L1.H1 L1.H2 L1.H3"),
        ("L*.H*", " ".join(f"L{i}.H{j}" for i in range(2) for j in range(4))),
        ("L0.N*", " ".join(f"L0.N{j}" for j in range(48))),
    ],
)
def test_text_forms(text, expected):
    assert Selection.parse(text, ANATOMY).text == expected


@pytest.mark.parametrize("text", ["L3.X1", "h5", "L", "L1.H", "*.H1", "L1..H2", "L1.H1-3", "L" + "9" * 5000])
def test_text_that_names_nothing(text):
    with refuses(f"{text!r} names no component (write L3, L3.H5, L3.N120, L3.E2.N7, L3.H* or L*.H5)"):
        Selection.parse(f"L0 {text}", ANATOMY)


@pytest.mark.parametrize("text", ["", "  ", ",, ,"])
def test_empty_text(text):
    with refuses("selection: empty (name at least one component, such as L3.H5)"):
        Selection.parse(text, ANATOMY)


def test_text_beyond_the_model():
    with refuses("L*.H4".replace("*", "0") + ": this model has 4 heads in layer 0 (L0.H0 to L0.H3)"):
        Selection.parse("L*.H4", ANATOMY)
    with refuses("L2.H0: this model has 2 layers (L0 to L1)"):
        Selection(ANATOMY, (Component("head", 2, 0),))


@SOME
@given(maps, counts, kind_sets)
def test_save_and_load_give_the_same(scores, budget, kinds):
    chosen = bought(scores, budget, kinds)
    with tempfile.TemporaryDirectory() as folder:
        chosen.save(Path(folder, "selection.json"))
        again = Selection.load(Path(folder, "selection.json"))
    assert again == chosen
    assert again.how == chosen.how
    assert again.scores == chosen.scores
    assert again.num_parameters == chosen.num_parameters


def test_how_of_the_first_format_is_read(tmp_path):
    """Files of version 1 hold any mapping: None where nothing was known, and what its maker liked to add."""
    Selection.parse("L0.N1", ANATOMY).save(tmp_path / "s.json")
    data = json.loads((tmp_path / "s.json").read_text())
    first = {"method": None, "strategy": "top", "budget": 0.02, "kinds": ["head"], "seed": 3, "by": {"me": 1}}
    data["how"] = {"operation": "|", "of": [first, {"text": "L0.N1"}]}
    (tmp_path / "s.json").write_text(json.dumps(data))
    how = Selection.load(tmp_path / "s.json").how
    one = How(strategy="top", budget="0.02", kinds=("head",), seed=3, more={"by": {"me": 1}})
    assert how == How(operation="|", of=(one, How(text="L0.N1")))
    assert how.of[0]["kinds"] == ["head"]
    assert (how.of[0]["by"], how.of[0].get("method"), "whole" in how) == ({"me": 1}, None, False)
    assert How.read(how.to_dict()) == how


@pytest.mark.parametrize(
    "how", [{"budget": []}, {"seed": True}, {"whole": 1}, {"kinds": "head"}, {"of": [3]}, {"of": {}}]
)
def test_how_that_cannot_be_meant_is_named(how):
    name = "how" if how == {"of": [3]} else f"how.{next(iter(how))}"
    with pytest.raises(GuidedError, match=f"^{name}: .* does not say how a choice was made"):
        Selection(ANATOMY, (), how)


def test_the_file_says_its_size_in_plain_numbers(tmp_path):
    Selection.parse("L0.N1", ANATOMY).save(tmp_path / "s.json")
    data = json.loads((tmp_path / "s.json").read_text())
    assert (data["kind"], data["components"], data["parameters"]) == ("selection", ["L0.N1"], 96)


def test_hostile_files_give_only_guided_errors(tmp_path):
    path = tmp_path / "selection.json"
    select(score_map(0, 5), "10%", kinds=("head", "neuron")).save(path)
    good = json.loads(path.read_text())
    refused = 0
    for seed in range(300):
        path.write_text(json.dumps(mutated(good, random.Random(seed))))
        try:
            again = Selection.load(path)
            assert again.num_parameters >= 0
            assert repr(again)
            assert len(again.slices()) >= 0
        except GuidedError:
            refused += 1
    assert refused > 100


def test_other_kinds_of_file_are_refused(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text('{"kind": "plan"}')
    with refuses(f"{path}: not a selection file (make it again, or get an undamaged copy)"):
        Selection.load(path)


def test_repr_tells_the_size():
    chosen = Selection.parse("L0.H0 L0.H1 L1.N3", ANATOMY)
    assert repr(chosen) == f"Selection(2 heads, 1 neuron: 1,632 parameters, {1632 / TOTAL:.3%})"
    assert repr(Selection(ANATOMY, ())) == "Selection(empty: 0 parameters, 0.000%)"
