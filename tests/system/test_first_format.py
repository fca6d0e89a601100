"""What the first version wrote is read by this one: map, choice, plan, adapter, recipe and the record of a run.

``tests/first_format`` was made by it: a run on the tiny llama of ``tools/families.py``, without its training's folder;
``logits.safetensors`` is what its adapter said. FOLDER stands for the folder that it ran in.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import families
import pytest
import tiny
import torch
from safetensors.torch import load_file

from guided_ft import Anatomy, Plan, Recipe, ScoreMap, Selection
from guided_ft.cli import main
from guided_ft.pipeline import run_folder
from guided_ft.use.finished import Finished

KEPT = Path(__file__).parents[1] / "first_format"
IDS = torch.arange(3, 21).view(2, 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("first")
    shutil.copytree(KEPT / "run", place / "run")
    for path in (place / "run").rglob("*"):
        if path.suffix in (".json", ".yaml"):
            path.write_text(path.read_text(encoding="utf-8").replace("FOLDER", str(place)), encoding="utf-8")
    families.make("llama").save_pretrained(place / "base-llama")
    tiny.tokenizer().save_pretrained(place / "base-llama")
    return place / "run"


def test_the_map_the_choice_and_the_plan(folder):
    scores, selection = ScoreMap.load(folder / "scores.safetensors"), Selection.load(folder / "selection.json")
    plan, anatomy = Plan.load(folder / "plan.json"), Anatomy.of(families.make("llama"))
    assert scores.sizes == {"layer": 2, "head": 8, "neuron": 96}
    assert scores.meta["method"] == "attribution"
    assert selection.counts() == {"layer": 0, "head": 2, "neuron": 23}
    assert (plan.mode, plan.num_parameters, plan.selection) == ("slice", 3_232, selection)
    assert selection.anatomy == anatomy
    assert scores.head[1].argmax() == 2


def test_the_adapter_says_what_it_said(folder):
    model = Finished(folder).model
    with torch.no_grad():
        found = model(input_ids=IDS).logits
        expected = load_file(KEPT / "logits.safetensors")["logits"]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        base = families.logits(families.make("llama"), IDS)
    assert float((base - expected).abs().max()) > 0.1


def test_the_recipe_and_the_record(folder, capsys):
    recipe = Recipe.load(str(folder / "recipe.yaml"))
    assert (recipe.train.mode, recipe.train.steps, str(recipe.select.budget)) == ("slice", 6, "15%")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["show", str(folder)])
    assert "3,232 of 21,856 parameters trained" in capsys.readouterr().out


def test_its_folder_is_known_as_a_runs(folder):
    """So that another run may take its place."""
    with run_folder.claimed(folder):
        assert (folder / "plan.json").is_file()
