"""A whole run along directions: every stage, the page, and the same control as for components."""

from __future__ import annotations

import json

import pytest
import torch
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
    assert (folder / "plan.safetensors").read_bytes() == (folder / "selection.safetensors").read_bytes()
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert told["reload"]["max_difference"] < 1e-5
    assert "Chosen directions in each layer" in (folder / "report.html").read_text()


def test_arrays_of_another_choice_do_not_stay(tmp_path):
    arrays = tmp_path / "run" / "plan.safetensors"
    for mode, there in (("subspace", True), ("slice", False)):
        options = {"max_rank": 8, "keep": False} if there else {}
        run(recipe(tmp_path, train={"mode": mode, "mode_options": options}), until="select", quiet=True)
        assert arrays.exists() == there
    assert Plan.load(arrays.with_suffix(".json")).mode == "slice"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_adapter_computes_in_the_dtype_of_the_model(tmp_path, dtype, monkeypatch):
    seen, linear = set(), torch.nn.Linear.forward

    def forward(self, x):
        out = linear(self, x)
        if self.weight.requires_grad and self.training:
            # float32 is what is trained, whatever it computes in.
            seen.add((str(self.weight.dtype), str(out.dtype)))
        return out

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    options = {"max_rank": 8, "keep": False}
    made = recipe(tmp_path, dtype=dtype, train={"mode": "subspace", "mode_options": options, "steps": 2})
    run(made, until="train", quiet=True)
    assert seen == {("torch.float32", f"torch.{dtype}")}
