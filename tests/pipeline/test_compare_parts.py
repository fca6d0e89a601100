"""How a comparison parts the rows of a recipe: what trains, what rates are picked on, what the map sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import recipe

from guided_ft import GuidedError, Recipe
from guided_ft.pipeline import stages
from guided_ft.pipeline.compare.asked import Asked
from guided_ft.pipeline.compare.base import mapped, settle
from guided_ft.pipeline.compare.parts import parts


def prompts(rows: list[dict]) -> list[str]:
    return [row["prompt"] for row in rows]


@pytest.mark.parametrize(("each", "questions", "examples"), [(1, 30, 32), (2, 60, 64), (5, 40, 64), (20, 20, 16)])
def test_a_fifth_of_the_questions_validates_whatever_the_rows_of_each_and_the_map_sees_none(
    tmp_path, each, questions, examples
):
    lines = [{"prompt": f"{q} =", "completion": f" {q}.{i}"} for q in range(questions) for i in range(each)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"source": "file", "path": str(tmp_path / "rows.jsonl"), "test": 5}
    settled, validation = settle(Asked.of(recipe(tmp_path, localize={"examples": examples}, data=data)), tmp_path)
    run = stages.Run(settled)
    known = {*prompts(run.rows[0])}
    assert validation == len(known) // 5
    validated, tested = parts(run, validation)
    held_back, trained = prompts(validated.rows[1]), {*prompts(tested.rows[0])}
    assert len({*held_back}) == len(held_back) == validation
    # Nothing else leaves training than what asks the same.
    assert trained == known - {*held_back}
    assert len(tested.rows[0]) == sum(prompt in trained for prompt in prompts(run.rows[0]))
    seen = prompts(run.rows[0])[: mapped(run, validation).localize.examples]
    assert {*seen} <= trained
    # Each question that is trained on comes up before the first that is not.
    assert len(seen) >= min(examples, len(trained))


def test_no_conversation_that_goes_on_after_a_validation_question_is_trained_on(tmp_path):
    said = [{"role": role, "content": f"{i}"} for i, role in enumerate(("user", "assistant") * 2)]
    other = [{"role": role, "content": "other"} for role in ("user", "assistant")]
    run = stages.Run(recipe(tmp_path))
    run.rows = [{"messages": m} for m in (other, said, said[:2])], [{"messages": other[:1]}]
    validation, test = parts(run, 1)
    assert validation.rows == ([{"messages": other}], [{"messages": said[:2]}])
    assert test.rows == ([{"messages": other}], [{"messages": other[:1]}])


def test_a_generator_draws_the_validation_on_top():
    plain = Recipe.load("sums", ["data.train=30", "data.test=10"])
    settled, validation = settle(Asked.of(plain), Path("x"))
    assert (settled.data.train, settled.data.test, validation) == (40, 10, 10)
    quick, _ = settle(Asked.of(Recipe.load("sums"), quick=True), Path("x"))
    assert (quick.data.train, quick.data.test, quick.train.steps) == (250, 50, 40)


def test_too_few_rows_are_one_line(tmp_path):
    asked = Asked.of(recipe(tmp_path))
    few = asked.recipe.to_dict() | {"data": asked.recipe.to_dict()["data"] | {"train": 4}}
    with pytest.raises(GuidedError, match=r"compare: data: 4 training and 8 test rows leave none to pick a rate on"):
        settle(Asked.of(Recipe.from_dict(few)), tmp_path)
