"""Every shipped recipe, found recursively, runs from its data to its report on a tiny model, without the hub."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from families import make

from guided_ft.pipeline import run
from guided_ft.recipe.recipe import Recipe, shipped

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}a: {% endif %}"

SMALL = (
    *("train.steps=2", "train.batch_size=2", "train.accumulate=1", "data.train=16", "data.test=4", "control=none"),
    *("localize.examples=2", "localize.batch_size=2", "select.first_layer=0", "select.budget=60%"),
    *("evaluate.max_new_tokens=4", "evaluate.retention_examples=2", "evaluate.retention_tokens=96"),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    model = make("llama")
    model.config.max_position_embeddings = 512  # rotary: a window of any size has the same weights
    model.save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_reach(path: str, **options: object) -> None:
        raise ConnectionError(f"Couldn't reach {path!r} on the Hub")

    monkeypatch.setattr("datasets.load_dataset", out_of_reach)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped())
def test_a_recipe_runs(name: str, base: str, offline: None) -> None:
    overrides = [*SMALL, f"model={base}"]
    if name == "then_dpo":
        # It goes on from what the first half leaves.
        run(Recipe.load("first_sft", overrides), quiet=True)
        overrides.pop()
    recipe = Recipe.load(name, overrides)
    record = run(recipe, quiet=True)
    assert record["name"] == name
    assert record["loss"][-1][0] <= 2
    assert {check["ok"] for check in record["checks"]} == {True}
    assert (record["task"]["train"], record["task"]["test"]) == (16, 4)
    data = Recipe.load(name).data
    assert record["task"]["name"] == (data.fallback or data.name), "the record names what was read"
    assert Path(f"runs/{name}/report.html").is_file()
    wanted = recipe.evaluate.metric
    assert wanted == "auto" or {*wanted.split("+")} <= {*record["after"]}
