"""Every scorer can be named in a recipe, and what it compares with can be a file."""

from __future__ import annotations

import json

import pytest
import tiny
from scoring import OPTIONS, SETS
from tiny_run import recipe

from guided_ft.pipeline import pipeline
from guided_ft.pipeline.pipeline import run
from guided_ft.scorers import catalogue
from guided_ft.selection.scoremap import ScoreMap


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    for name, rows in (("one", tiny.sums(50)[44:]), ("two", tiny.sums(60)[54:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("method", list(catalogue.CATALOGUE))
def test_every_method_is_localized_from_a_recipe(folder, method):
    found = catalogue.CATALOGUE[method]
    options = {k: v for k, v in OPTIONS.get(method, {}).items() if k != "kinds"}
    retain = "none"
    if method in SETS:
        retain = str(folder / "one.jsonl")
    kinds = ["head"] if "head" in found.kinds else [found.kinds[0]]
    made = recipe(
        folder,
        method,
        localize={"method": method, "retain": retain, "options": options},
        select={"kinds": kinds},
        evaluate={"retention": "none"},
    )
    run(made, until="localize", quiet=True)
    scores = ScoreMap.load(folder / method / "scores.safetensors")
    assert scores.kinds == (tuple(kinds) if method == "ablation" else found.kinds)
    assert scores.meta["method"] == method


def test_several_sets_and_the_retain_set_as_the_other(folder):
    both = f"{folder / 'one.jsonl'}, {folder / 'two.jsonl'}"
    localize = {"method": "specificity", "retain": both}
    run(recipe(folder, "several", localize=localize), until="localize", quiet=True)
    meta = ScoreMap.load(folder / "several" / "scores.safetensors").meta
    assert [task["name"] for task in meta["options"]["retain"]] == ["one.jsonl", "two.jsonl"]
    localize = {"method": "natural_gain", "retain": str(folder / "one.jsonl")}
    run(recipe(folder, "kept", localize=localize), until="localize", quiet=True)
    meta = ScoreMap.load(folder / "kept" / "scores.safetensors").meta
    assert meta["options"]["retain"]["name"] == "one.jsonl"


def test_a_difference_from_a_recipe(folder):
    options = {"combine": "difference", "weight": 0.5, "signed": True}
    localize = {"method": "attribution", "retain": str(folder / "one.jsonl"), "options": options}
    run(recipe(folder, "difference", localize=localize), until="localize", quiet=True)
    assert ScoreMap.load(folder / "difference" / "scores.safetensors").meta["combine"] == "difference"


def test_another_file_to_compare_with_is_another_run(folder):
    path = folder / "changing.jsonl"
    path.write_text((folder / "one.jsonl").read_text())
    localize = {"method": "contrast", "retain": str(path)}
    made = recipe(folder, "changing", localize=localize)
    run(made, until="localize", quiet=True)
    before = ScoreMap.load(folder / "changing" / "scores.safetensors")
    path.write_text((folder / "two.jsonl").read_text())
    run(made, until="localize", quiet=True)
    after = ScoreMap.load(folder / "changing" / "scores.safetensors")
    assert before.meta["options"] != after.meta["options"]


def test_what_was_ablated_exactly_is_told(folder, capsys):
    localize = {"method": "attribution", "retain": "none", "options": {"verify": 5}}
    result = run(recipe(folder, "checked", localize=localize), until="localize")["localize"]
    found = ScoreMap.load(folder / "checked" / "scores.safetensors").meta["verified"]["head"]
    told = f"5 heads (rank correlation {found['spearman']:.2f}, recall {found['recall']:.0%})"
    line = capsys.readouterr().out.splitlines()[-1]
    assert told in line
    for passes, words in ((1, "in 1 pass; ablated exactly: "), (2, "in 2 passes; ablated exactly: ")):
        assert words in pipeline._tell_localize(result | {"meta": result["meta"] | {"passes": passes}})
