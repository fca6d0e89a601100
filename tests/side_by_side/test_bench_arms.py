"""What an arm is lives with the arm: its way of training, its name and look, and what its rows say of it."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from bench_rows import row

from benchmarks.side_by_side.arms.arms import ARMS
from benchmarks.side_by_side.arms.labels import arm_of
from benchmarks.side_by_side.units.tables import behind
from guided_ft.recipe.recipe import Recipe

SETTINGS = {"batch_size": 4, "max_length": 64, "examples": 8}


def test_arms_share_a_configuration_only_if_they_are_the_same_but_for_the_rate():
    found = defaultdict(list)
    for name, arm in ARMS.items():
        found[arm.about(SETTINGS)["configuration"]].append(name)
    assert [names for names in found.values() if len(names) > 1] == [
        ["guided", "guided:auto"],
        ["random:default", "random:auto"],
    ]


def test_a_configuration_is_all_of_an_arm_and_of_its_suite():
    arm = ARMS["guided:two-sided"]
    told = arm.about(SETTINGS)
    assert told | {"configuration": ""} == {
        "mode": "slice",
        "method": "gradient",
        "strategy": "top",
        "kinds": ["head", "neuron"],
        "control": False,
        "configuration": "",
    }
    others = [replace(arm, way=replace(arm.way, texts=33)).about(SETTINGS), arm.about(SETTINGS | {"batch_size": 8})]
    assert len({told["configuration"], *(other["configuration"] for other in others)}) == 3
    assert replace(arm, label="another", colour="#000000").about(SETTINGS) == told


def test_the_default_of_slices_is_what_the_recipe_says(monkeypatch):
    recipe = Recipe.load("sums")
    assert ARMS["guided"].way.about()["method"] == recipe.localize.method
    assert ARMS["guided"].way.about()["kinds"] == list(recipe.select.kinds)
    before = ARMS["guided"].about(SETTINGS)["configuration"]
    other = Recipe.from_dict(recipe.to_dict() | {"localize": {**recipe.to_dict()["localize"], "examples": 7}})
    monkeypatch.setattr(Recipe, "load", lambda name: other)
    assert ARMS["guided"].about(SETTINGS)["configuration"] != before


def test_importing_the_arms_reads_no_recipe_and_no_torch():
    code = "import sys, benchmarks.side_by_side.arms.labels; print(*{'torch', 'guided_ft.recipe'} & {*sys.modules})"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_an_arm_that_is_no_longer_listed_is_like_its_family():
    assert arm_of("guided:gone").is_located
    assert not arm_of("random:gone").is_located
    assert not arm_of("unheard-of").is_located
    assert arm_of("lora:gone").way.form == "lora"


def test_rows_of_two_configurations_are_not_passed_over():
    told = "full fine-tuning: rows of 2 configurations, which are not the same arm"
    assert told in behind([row(), row(seed=1, configuration="11111111")], 2, [])
    assert told not in behind([row(), row(seed=1)], 2, [])
