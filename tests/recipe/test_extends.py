"""``extends``: what a recipe takes over, what it does not, and who is blamed for a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from guided_ft.errors import GuidedError
from guided_ft.recipe.recipe import Recipe, shipped

BASE = """\
name: base
description: "the base"
output: elsewhere
seed: 7
data: {name: chain_sum, options: {min_terms: 2}, train: 20}
select: {budget: 2%, kinds: [head]}
train: {mode: slice}
"""


@pytest.fixture
def write(tmp_path: Path):
    def put(text: str, base: str = BASE) -> Path:
        (tmp_path / "base.yaml").write_text(base)
        (tmp_path / "mine.yaml").write_text(text)
        return tmp_path / "mine.yaml"

    return put


def test_sections_take_over_the_keys_that_are_not_written_again(write) -> None:
    recipe = Recipe.load(write("extends: base.yaml\nselect: {budget: 5%}\ndata: {train: 50}\n"), ["steps=3"])
    assert (recipe.select.budget, recipe.select.kinds, recipe.seed, recipe.train.steps) == ("5%", ("head",), 7, 3)
    assert (recipe.data.name, recipe.data.options, recipe.data.train) == ("chain_sum", {"min_terms": 2}, 50)
    assert (recipe.name, recipe.description, recipe.output) == ("mine", "", None)


def test_data_of_its_own_takes_over_nothing(write) -> None:
    recipe = Recipe.load(write("extends: base.yaml\ndata: {source: file, path: rows.jsonl}\n"))
    assert (recipe.data.path, recipe.data.options, recipe.data.train) == ("rows.jsonl", {}, "auto")


def test_steps_of_its_own_are_not_outdone_by_epochs_of_the_other(write) -> None:
    passes = BASE.replace("mode: slice", "mode: slice, epochs: 3")
    for own, expected in (("{steps: 50}", (50, None)), ("{rank: 4}", (100, 3)), ("{epochs: 2}", (100, 2))):
        train = Recipe.load(write(f"extends: base.yaml\ntrain: {own}\n", passes)).train
        assert (train.steps, train.epochs) == expected


def test_a_first_layer_counts_the_layers_of_its_own_model(write) -> None:
    deep = f"model: owner/deep\n{BASE}".replace("kinds: [head]", "kinds: [head], first_layer: 20")
    other = "extends: base.yaml\nmodel: owner/other\n"
    own = [other, f"{other}select: {{first_layer: 2}}\n", "extends: base.yaml\nmodel: owner/deep\n"]
    assert [Recipe.load(write(text, deep)).select.first_layer for text in own] == [0, 2, 20]


def test_a_shipped_one_is_extended_by_name_and_the_result_is_saved_in_full(write, tmp_path: Path) -> None:
    recipe = Recipe.load(write("extends: quickstart\nseed: 3\n"))
    assert (recipe.seed, recipe.data.name) == (3, "seats")
    recipe.save(tmp_path / "saved.yaml")
    assert "extends" not in (tmp_path / "saved.yaml").read_text()
    assert Recipe.load(tmp_path / "saved.yaml") == recipe


@pytest.mark.parametrize(
    ("text", "base", "said"),
    [
        ("extends: 3\n", BASE, "mine.yaml: extends: expected a recipe's name, got 3 (write extends: quickstart)"),
        (
            "extends: quikstart\n",
            BASE,
            "mine.yaml: extends: 'quikstart': no shipped recipe has this name (did you mean 'quickstart'?)",
        ),
        (
            "extends: other.yaml\n",
            BASE,
            "mine.yaml: extends: other.yaml: cannot be read: No such file or directory (check the path)",
        ),
        ("extends: mine.yaml\n", BASE, "mine.yaml: extends: 'mine.yaml' is this recipe itself (name another)"),
        (
            "extends: base.yaml\n",
            "extends: quickstart\n",
            "mine.yaml: extends: base.yaml itself extends 'quickstart' (extend that one)",
        ),
        (
            "extends: base.yaml\nselect: {budgt: 1%}\n",
            BASE,
            "mine.yaml: select.budgt: unknown key (did you mean 'budget'?)",
        ),
        (
            "extends: base.yaml\nselect: {budget: 1%}\n",
            BASE.replace("mode: slice", "mode: slice, stepz: 5"),
            "base.yaml: train.stepz: unknown key (did you mean 'steps'?)",
        ),
        (
            "extends: base.yaml\nselect: {budget: 1%}\n",
            BASE.replace("kinds", "kindz"),
            "base.yaml: select.kindz: unknown key (did you mean 'kinds'?)",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_its_file(write, text: str, base: str, said: str) -> None:
    with pytest.raises(GuidedError) as caught:
        Recipe.load(write(text, base))
    assert str(caught.value) == said


def test_two_shipped_ones_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guided_ft.recipe.finding.__file__", str(tmp_path / "guided_ft" / "recipe" / "finding.py"))
    for topic in ("a", "b/c"):
        (tmp_path / "recipes" / topic).mkdir(parents=True)
        (tmp_path / "recipes" / topic / "sums.yaml").write_text("data: {name: chain_sum}\n")
    with pytest.raises(GuidedError, match=r"^recipes: a/sums\.yaml and b/c/sums\.yaml have the same name \(rename one"):
        shipped()
