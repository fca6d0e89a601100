"""A whole run along directions: every stage, the page, and the same control as for components."""

from __future__ import annotations

import json

import pytest
from tiny_run import recipe

from guided_ft.pipeline.pipeline import run
from guided_ft.plan.plan import Plan
from guided_ft.selection.directions import DirectionMap
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.selection.subspace import Subspace


@pytest.mark.parametrize("trainer", ["sft", "dpo"])
def test_a_recipe_trains_along_directions(tmp_path, trainer):
    options = {"max_rank": 8, "lam": 0.1, "keep": False}
    made = recipe(tmp_path, train={"mode": "subspace", "mode_options": options, "trainer": trainer})
    run(made)
    folder = tmp_path / "run"
    told = json.loads((folder / "run.json").read_text())
    found, chosen = DirectionMap.load(folder / "directions.safetensors"), Subspace.load(folder / "selection.json")
    plan, control = Plan.load(folder / "plan.json"), Subspace.load(folder / "control" / "selection.json")
    assert (found.meta["lam"], found.meta["max_rank"], found.meta["retain"]["name"]) == (0.1, 8, "self")
    assert ScoreMap.load(folder / "scores.safetensors").kinds == ("layer", "head", "neuron")
    assert plan.selection == chosen
    assert (told["mode"], told["trainable"]) == ("subspace", chosen.num_parameters)
    assert told["selected"]["direction"] == len(chosen)
    # The directions count among what must not have moved.
    assert told["frozen"]["identical"] == told["frozen"]["total"] > len(chosen.bases)
    assert control.ranks == chosen.ranks
    assert control != chosen
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert told["reload"]["max_difference"] < 1e-5
    assert "Chosen directions in each layer" in (folder / "report.html").read_text()
