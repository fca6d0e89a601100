"""A recipe is strictly read: what is right loads, and reads the same when it is written again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guided_ft.errors import GuidedError
from guided_ft.pipeline.data import split
from guided_ft.recipe import strict_yaml
from guided_ft.recipe.recipe import Data, Recipe, Select, Train, keys, shipped
from recipes import MINIMAL, plain_text, scalars, tricky

REPOSITORY = Path(__file__).parents[2]

SHIPPED = sorted((REPOSITORY / "recipes").rglob("*.y*ml"))


def test_every_shipped_file_is_found_by_its_name() -> None:
    assert {path.stem for path in SHIPPED} >= {"quickstart", "dpo_sums", "freeze_sums", "lora_sums"}
    assert sorted(shipped().values()) == SHIPPED
    assert set(shipped()) == {path.stem for path in SHIPPED}


def test_an_installed_package_brings_its_own_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guided_ft.recipe.finding.__file__", str(tmp_path / "guided_ft" / "recipe" / "finding.py"))
    for folder in ("recipes", "guided_ft/recipes/more"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "sums.yaml").write_text("data: {name: chain_sum}\n")
    assert shipped() == {"sums": tmp_path / "guided_ft/recipes/more/sums.yaml"}
    assert Recipe.load("sums").data.name == "chain_sum"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_and_says_how_to_run_it(path: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(path.stem)
    assert recipe == Recipe.load(path) == Recipe.load(str(path))
    assert recipe.name == path.stem
    assert recipe.description
    opening = path.read_text().split("\n\n")[0]
    assert re.search(rf"^#   guided-ft run {path.stem}\b", opening, re.M)
    assert re.search(rf"^#   guided-ft run {path.stem} \w+=", opening, re.M)
    recipe.save(tmp_path / "copy.yaml")
    assert Recipe.load(tmp_path / "copy.yaml") == recipe


def test_the_shipped_recipes_are_what_their_names_say() -> None:
    quick, dpo, freeze, lora = map(Recipe.load, ("sums", "dpo_sums", "freeze_sums", "lora_sums"))
    assert (quick.train.mode, quick.select) == ("slice", Select(budget="0.1%", first_layer=12))
    assert (dpo.train.trainer, dpo.data.preference, dpo.train.learning_rate, dpo.train.steps) == ("dpo", True, 1e-3, 60)
    assert (freeze.train.mode, freeze.select.kinds, freeze.select.budget) == ("freeze", ("layer",), "6%")
    assert (freeze.train.learning_rate, lora.train.mode, lora.train.learning_rate) == (5e-5, "lora", 2e-3)
    assert lora.select.kinds == ("head", "neuron")
    for recipe in (quick, dpo, freeze, lora):
        assert recipe.data.options == {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}
        assert recipe.data.contains == " + "
    counts = [split(recipe.data, 0, None) for recipe in (quick, dpo, freeze, lora)]
    assert counts == [(200, 100), (800, 100), (800, 100), (800, 100)]


def test_quickstart_is_the_defaults_written_out() -> None:
    quick, plain = Recipe.load("quickstart"), Recipe(**MINIMAL)
    same = ("seed", "control", "dtype", "model", "localize", "select", "train", "evaluate")
    assert [key for key in same if getattr(quick, key) != getattr(plain, key)] == []


def test_quickstart_spells_out_what_a_first_reader_may_change() -> None:
    spelled = set(_paths(yaml.safe_load(shipped()["quickstart"].read_text())))
    of_other_recipes = {
        "data.path",
        "data.test_path",
        "data.split",
        "data.subset",
        "data.fallback",
        "train.rank",
        "train.beta",
    }
    of_other_recipes |= {"data.format", "data.columns", "data.prompt", "train.mode_options"}
    of_other_recipes |= {
        "data.options",
        "data.contains",
        "data.preference",
        "train.epochs",
        "train.arguments",
        "train.reward",
    }
    of_other_recipes |= {"evaluate.lm_eval", "evaluate.lm_eval_limit"}
    assert spelled == set(keys()) - of_other_recipes


def _paths(data: dict[str, Any]) -> list[str]:
    sections = {key: value for key, value in data.items() if isinstance(value, dict)}
    return [key for key in data if key not in sections] + [
        f"{s}.{key}" for s, inner in sections.items() for key in inner
    ]


FROZEN = {
    "train.reward": None,
    "evaluate.lm_eval": None,
    "evaluate.lm_eval_limit": None,
    "name": "recipe",
    "description": "",
    "model": "smollm2-135m-instruct",
    "dtype": "float32",
    "quantization": "none",
    "seed": 0,
    "output": None,
    "control": "random",
    "data.source": "reasoning_gym",
    "data.name": None,
    "data.path": None,
    "data.test_path": None,
    "data.split": "train",
    "data.subset": None,
    "data.fallback": None,
    "data.format": "auto",
    "data.columns": {},
    "data.prompt": None,
    "data.options": {},
    "data.contains": None,
    "data.preference": False,
    "data.train": "auto",
    "data.test": "auto",
    "localize.method": "attribution",
    "localize.retain": "self",
    "localize.examples": 64,
    "localize.batch_size": 8,
    "localize.options": {},
    "select.budget": "10%",
    "select.kinds": ("neuron",),
    "select.strategy": "top",
    "select.first_layer": 0,
    "train.trainer": "sft",
    "train.mode": "subspace",
    "train.rank": None,
    "train.mode_options": {},
    "train.lr_scale": 1.0,
    "train.learning_rate": "auto",
    "train.steps": 100,
    "train.epochs": None,
    "train.batch_size": 8,
    "train.accumulate": 1,
    "train.lr_scheduler": "linear",
    "train.warmup_steps": 0,
    "train.weight_decay": 0.0,
    "train.max_grad_norm": 1.0,
    "train.max_length": 256,
    "train.save_steps": 50,
    "train.beta": 0.1,
    "train.gradient_checkpointing": False,
    "train.prefix_cache": "auto",
    "train.arguments": {},
    "evaluate.metric": "auto",
    "evaluate.max_new_tokens": "auto",
    "evaluate.batch_size": 50,
    "evaluate.retention": "self",
    "evaluate.retention_examples": 32,
    "evaluate.retention_tokens": 48,
}


def test_keys_and_defaults_change_only_on_purpose() -> None:
    assert {path: info.default for path, info in keys().items()} == FROZEN


def test_every_key_is_described() -> None:
    assert [path for path, info in keys().items() if not info.description] == []


def test_a_file_without_a_name_is_named_after_itself(tmp_path: Path) -> None:
    (tmp_path / "sums.yml").write_text("data: {name: chain_sum}\n")
    assert Recipe.load(tmp_path / "sums.yml").name == "sums"
    assert Recipe.load(tmp_path / "sums.yml", ["name=other"]).output_dir == Path("runs/other")
    assert Recipe.load(tmp_path / "sums.yml", ["output=/data/x"]).output_dir == Path("/data/x")


def test_a_name_is_one_that_every_system_gives_a_folder() -> None:
    for letter in '*?"<>|':
        with pytest.raises(GuidedError, match=r"^recipe: name: .* cannot name a folder"):
            Recipe(**MINIMAL, name=f"a{letter}b")
    assert Recipe(**MINIMAL, name="漢" * 60).name == "漢" * 60
    with pytest.raises(GuidedError, match=r"^recipe: name: .* has 270 bytes, more than the 200 of a name \(use fewer"):
        Recipe(**MINIMAL, name="漢" * 90)


def test_a_recipe_never_changes() -> None:
    recipe = Recipe(**MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        recipe.train.steps = 5  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 5  # type: ignore[misc]


def test_sections_made_in_python_are_checked_together_too() -> None:
    assert Recipe(data=Data(name="x"), train=Train(rank=4, mode="lora")).train.rank == 4
    with pytest.raises(GuidedError, match=r"^recipe: train\.rank: mode freeze has none"):
        Recipe(data=Data(name="x"), train=Train(rank=4, mode="freeze"))
    assert Recipe(data=Data(name="x"), train=Train(rank=4, mode="slice")).train.rank == 4


def test_the_sets_of_a_method_may_be_written_as_they_once_were() -> None:
    def asked(method: str, **localize: Any) -> Recipe:
        return Recipe(data={"name": "chain_sum"}, localize={"method": method} | localize, train={"mode": "slice"})

    once = asked("specificity", options={"against": "a.jsonl, b.txt", "bar": 0.5})
    assert once == asked("specificity", retain="a.jsonl, b.txt", options={"bar": 0.5})
    kept = asked("attribution", options={"against": "a.jsonl"})
    assert kept.localize.options == {"against": "a.jsonl"}, "no option of this method, as check says"


def test_a_saved_recipe_reads_well(tmp_path: Path) -> None:
    Recipe(description="Größe: 2%", **MINIMAL).save(tmp_path / "saved.yaml")
    lines = (tmp_path / "saved.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["# A recipe with every default spelled out.", "name: recipe", "description: 'Größe: 2%'"]
    assert [line.strip().split(":")[0] for line in lines[1:] if re.match(" *[a-z]", line)] == [
        part for path in keys() for part in _new_parts(path)
    ]


def _new_parts(path: str) -> list[str]:
    first = {"data.source", "localize.method", "select.budget", "train.trainer", "evaluate.max_new_tokens"}
    return path.split(".") if path in first else [path.rpartition(".")[2]]


def test_a_budget_may_be_larger_than_small_models() -> None:
    assert Recipe(**MINIMAL, select={"budget": 2_000_000_000}).select.budget == 2_000_000_000


def test_python_gets_the_same_errors_as_yaml() -> None:
    said = "train.steps: expected an integer from 1 to 1000000000, got 0 (write a number such as 100)"
    bad = {**MINIMAL, "train": {"steps": 0}}
    with pytest.raises(GuidedError) as caught:
        Recipe(**bad)
    assert str(caught.value) == f"recipe: {said}"
    with pytest.raises(GuidedError) as caught:
        Recipe.from_dict(bad, where="notebook")
    assert str(caught.value) == f"notebook: {said}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "recipe: not a mapping with text keys (give a dict such as Recipe.to_dict returns)"),
        ({3: 1}, "recipe: not a mapping with text keys (give a dict such as Recipe.to_dict returns)"),
        ({**MINIMAL, "train": {3: 1}}, "recipe: train.3: a key must be text (put it in quotes)"),
        ({"data": {"name": "x", "options": {3: 1}}}, "recipe: data.options.3: a key must be text (put it in quotes)"),
        (
            {**MINIMAL, "seed": 10**5000},
            "recipe: seed: expected an integer from 0 to 4294967295, got a huge number (write a number such as 0)",
        ),
        (
            {**MINIMAL, "train": {"lr_scale": 10**400}},
            "recipe: train.lr_scale: expected a number above 0, got a huge number (write a number such as 1.0)",
        ),
        ({**MINIMAL, "model": "a\ud800"}, "recipe: model: a control character in 'a\\ud800' (remove it)"),
        (
            {**MINIMAL, "seed": object()},
            "recipe: seed: expected an integer from 0 to 4294967295, got a object (write a number such as 0)",
        ),
    ],
)
def test_python_data_that_no_yaml_holds(data: Any, message: str) -> None:
    with pytest.raises(GuidedError) as caught:
        Recipe.from_dict(data)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("written", "read"),
    [("5e-3", 0.005), ("1e-3", 0.001), ("5E-3", 0.005), ("1e3", 1000.0), ("+1.5e+2", 150.0), (".5", 0.5), ("1.", 1.0)],
)
def test_numbers_are_read_as_people_write_them(written: str, read: float) -> None:
    value = strict_yaml.parse(written, "x")
    assert (value, type(value)) == (read, float)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("010", "010"),
        ("0x1f", "0x1f"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0.1%", "0.1%"),
        ("'5e-3'", "5e-3"),
        ("1.2.3", "1.2.3"),
        ("9" * 40, "9" * 40),
        ("1_000", 1000),
        ("yes", True),
        ("OFF", False),
        ("y", "y"),
        ("~", None),
        ("null", None),
        ("", None),
        ("none", "none"),
        ("<<", "<<"),
    ],
)
def test_yaml_has_fewer_surprises(written: str, read: Any) -> None:
    assert strict_yaml.parse(written, "x") == read


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(plain_text | tricky, scalars | tricky | st.lists(scalars, max_size=3), max_size=5))
def test_what_is_dumped_is_read_back(data: dict[str, Any]) -> None:
    assert strict_yaml.parse(strict_yaml.dump(data), "x") == data


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    description=plain_text.filter(str.strip) | tricky.filter(str.strip),
    budget=st.sampled_from(["2%", 0.02, 1000, "1_000", 1e-3, "50 %"]),
    kinds=st.permutations(["layer", "head", "neuron"]),
    rate=st.floats(1e-9, 10) | st.just("auto"),
    options=st.dictionaries(plain_text, st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | tricky, max_size=3),
)
def test_a_saved_recipe_is_the_same_recipe(tmp_path: Path, description, budget, kinds, rate, options) -> None:
    recipe = Recipe(
        description=description,
        data={"name": "x", "options": options},
        select={"budget": budget, "kinds": kinds},
        train={"learning_rate": rate, "mode": "slice"},
    )
    recipe.save(tmp_path / "saved.yaml")
    assert Recipe.load(tmp_path / "saved.yaml") == recipe == Recipe.from_dict(recipe.to_dict())
