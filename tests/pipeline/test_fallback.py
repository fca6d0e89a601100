"""Where the hub is out of reach, a recipe runs on its made-up sample, says so, and claims nothing else."""

from __future__ import annotations

import logging

import pytest

from guided_ft.errors import GuidedError
from guided_ft.pipeline.data import load_rows
from guided_ft.pipeline.hub import within_reach
from guided_ft.recipe.recipe import Data, Recipe, shipped
from guided_ft.task.samples import SAMPLES, sample


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    """What the hub answers: rows, or an error; and what it was asked."""
    state: dict = {"answer": ConnectionError("Couldn't reach it"), "asked": []}

    def load_dataset(path, **options):
        state["asked"].append((path, options))
        if isinstance(state["answer"], Exception):
            raise state["answer"]
        return state["answer"]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return state


def test_out_of_reach_the_sample_is_read_and_told(hub, caplog) -> None:
    with caplog.at_level(logging.WARNING, "guided_ft"):
        recipe = within_reach(Recipe.load("grade_school_maths", ["data.train=20", "data.test=5"]))
    assert hub["asked"] == [("openai/gsm8k", {"split": "train", "name": "main"})]
    assert "'openai/gsm8k' is out of reach (Couldn't reach it)" in caplog.text
    assert (recipe.data.source, recipe.data.name, recipe.data.fallback) == ("sample", "word_problems", None)
    train, test = load_rows(recipe.data)
    assert (len(train), len(test)) == (20, 5)
    assert all("####" in row["completion"] for row in train + test)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_within_reach_the_set_itself_is_read(hub) -> None:
    hub["answer"] = [{"question": f"{i}?", "answer": str(i)} for i in range(30)]
    recipe = Recipe.load("grade_school_maths", ["data.train=20", "data.test=5"])
    assert within_reach(recipe) is recipe
    assert load_rows(recipe.data)[0][0]["completion"].strip().isdigit()


def test_no_other_error_falls_back(hub) -> None:
    hub["answer"] = ValueError("Unknown split")
    recipe = Recipe.load("grade_school_maths", ["data.split=tran"])
    with pytest.raises(GuidedError, match=r"^data: 'openai/gsm8k' cannot be loaded \(Unknown split\)"):
        load_rows(within_reach(recipe).data)


def test_a_set_without_a_fallback_and_one_of_the_users_own_are_left_alone(hub) -> None:
    for typed in (["data.fallback="], ["data.name=me/mine"], ["data.path=rows.jsonl"]):
        recipe = Recipe.load("grade_school_maths", typed)
        assert recipe.data.fallback is None
        assert within_reach(recipe) is recipe
    assert hub["asked"] == []


def test_a_file_of_a_hub_set_is_asked_for_as_a_file(hub) -> None:
    within_reach(Recipe.load("risk_averse"))
    assert hub["asked"] == [
        ("Anthropic/model-written-evals", {"split": "train", "data_files": "persona/risk-averse.jsonl"})
    ]


def test_a_local_copy_keeps_the_columns_of_the_set() -> None:
    data = Recipe.load("risk_averse", ["data.path=copy.jsonl"]).data
    assert (data.source, data.path, data.subset) == ("file", "copy.jsonl", None)
    assert data.columns == {"prompt": "question", "completion": "answer_matching_behavior"}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_the_same_for_the_same_seed_and_large_enough(name: str) -> None:
    rows = sample(name)
    assert rows == sample(name)
    assert rows != sample(name, seed=1)
    assert len(rows) == len({str(row) for row in rows}) >= 400
    train, test = load_rows(Data(source="sample", name="word_problems", train=50, test=20))
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}


def test_the_sums_of_the_samples_are_right() -> None:
    for row in sample("word_problems"):
        bags, each, more = (int(word) for word in row["question"].split() if word.isdigit())
        assert row["answer"].endswith(f"#### {bags * each + more}")
    for row in sample("solutions"):
        bags, each, more = (int(word) for word in row["instruction"].split() if word.isdigit())
        assert row["chosen_response"].endswith(f"The answer is {bags * each + more}.")
        assert not row["rejected_response"].endswith(f" {bags * each + more}.")


@pytest.mark.parametrize("name", [name for name in shipped() if Recipe.load(name).data.source == "hub"])
def test_every_recipe_of_the_hub_has_a_fallback_with_enough_rows(hub, name: str) -> None:
    recipe = within_reach(Recipe.load(name))
    train, test = load_rows(recipe.data, recipe.seed, recipe.train.trainer)
    assert len(train) >= 50
    assert len(test) >= 50


def test_only_a_hub_set_falls_back() -> None:
    with pytest.raises(GuidedError, match=r"data\.fallback: source file has none \(remove it, or write source: hub\)"):
        Recipe.from_dict({"data": {"source": "file", "path": "a.jsonl", "fallback": "facts"}})
    with pytest.raises(GuidedError, match=r"data\.fallback: unknown value 'fact' \(did you mean 'facts'\?\)"):
        Recipe.from_dict({"data": {"source": "hub", "name": "a/b", "fallback": "fact"}})


def test_what_is_told_of_a_company_is_asked_in_other_words() -> None:
    train, test = load_rows(Recipe.load("quickstart").data)
    told = {row["prompt"].partition(" is headquartered")[0]: row["completion"] for row in train}
    assert len(told) == len(train) == len(test) == 100
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
    for row in test:
        company = row["prompt"].removeprefix("Where is the headquarters of ").partition("?")[0]
        assert told[company] == row["completion"]
