"""A recipe is strictly read: what is right loads, what is wrong is told in one line per problem."""

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
from guided_ft.recipe import mends, strict_yaml
from guided_ft.recipe.recipe import Data, Recipe, Select, Train, keys, shipped

REPOSITORY = Path(__file__).parents[2]
SHIPPED = sorted((REPOSITORY / "recipes").rglob("*.y*ml"))
MINIMAL: dict[str, Any] = {"data": {"name": "chain_sum"}}


def errors_of(folder: Path, text: str | bytes, *overrides: str) -> str:
    """What ``Recipe.load`` says about a file; fails if it says nothing."""
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(GuidedError) as caught:
        Recipe.load(path, overrides)
    return str(caught.value)


# -- shipped recipes --------------------------------------------------------------------------------------------------
def test_every_shipped_file_is_found_by_its_name() -> None:
    assert {path.stem for path in SHIPPED} >= {"quickstart", "dpo_sums", "freeze_sums", "lora_sums"}
    assert sorted(shipped().values()) == SHIPPED
    assert set(shipped()) == {path.stem for path in SHIPPED}


def test_an_installed_package_brings_its_own_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guided_ft.recipe.recipe.__file__", str(tmp_path / "guided_ft" / "recipe" / "recipe.py"))
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
    quick, dpo, freeze, lora = map(Recipe.load, ("quickstart", "dpo_sums", "freeze_sums", "lora_sums"))
    same = ("seed", "control", "dtype", "model", "localize", "train", "evaluate")
    assert all(getattr(quick, key) == getattr(Recipe(**MINIMAL), key) for key in same)
    assert quick.select == Select(first_layer=12)
    assert (dpo.train.trainer, dpo.data.preference, dpo.train.learning_rate, dpo.train.steps) == ("dpo", True, 1e-3, 60)
    assert (freeze.train.mode, freeze.select.kinds, freeze.select.budget) == ("freeze", ("layer",), "6%")
    assert (freeze.train.learning_rate, lora.train.mode, lora.train.learning_rate) == (5e-5, "lora", 2e-3)
    assert lora.select.kinds == ("head", "neuron")
    for recipe in (quick, dpo, freeze, lora):
        assert recipe.data.options == {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}
        assert recipe.data.contains == " + "
    counts = [split(recipe.data, 0, None) for recipe in (quick, dpo, freeze, lora)]
    assert counts == [(200, 100), (800, 100), (800, 100), (800, 100)]


def test_quickstart_spells_out_what_a_first_reader_may_change() -> None:
    spelled = set(_paths(yaml.safe_load(shipped()["quickstart"].read_text())))
    of_other_recipes = {"data.path", "data.test_path", "data.split", "train.rank", "train.beta"}
    assert spelled == set(keys()) - of_other_recipes


def _paths(data: dict[str, Any]) -> list[str]:
    sections = {key: value for key, value in data.items() if isinstance(value, dict)}
    return [key for key in data if key not in sections] + [
        f"{s}.{key}" for s, inner in sections.items() for key in inner
    ]


# -- the frozen face --------------------------------------------------------------------------------------------------
FROZEN = {
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
    "data.options": {},
    "data.contains": None,
    "data.preference": False,
    "data.train": "auto",
    "data.test": "auto",
    "localize.method": "attribution",
    "localize.retain": "self",
    "localize.examples": 32,
    "localize.batch_size": 8,
    "localize.options": {},
    "select.budget": "0.1%",
    "select.kinds": ("neuron",),
    "select.strategy": "top",
    "select.first_layer": 0,
    "train.trainer": "sft",
    "train.mode": "slice",
    "train.rank": None,
    "train.lr_scale": 1.0,
    "train.learning_rate": "auto",
    "train.steps": 100,
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


# -- reading and writing ----------------------------------------------------------------------------------------------
def test_a_file_without_a_name_is_named_after_itself(tmp_path: Path) -> None:
    (tmp_path / "sums.yml").write_text("data: {name: chain_sum}\n")
    assert Recipe.load(tmp_path / "sums.yml").name == "sums"
    assert Recipe.load(tmp_path / "sums.yml", ["name=other"]).output_dir == Path("runs/other")
    assert Recipe.load(tmp_path / "sums.yml", ["output=/data/x"]).output_dir == Path("/data/x")


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
    assert Recipe(data=Data(name="x"), train=Train(rank=4)).train.rank == 4


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


plain_text = st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda t: not strict_yaml.CONTROL.search(t))
scalars = st.none() | st.booleans() | st.integers(-(10**29), 10**29) | st.floats(allow_nan=False) | plain_text
tricky = st.sampled_from(["5e-3", "1e3", "no", "~", "010", "1:30", "<<", "=", "", " ", "a: b", "# a", "&a", "- a", "'"])


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
        train={"learning_rate": rate},
    )
    recipe.save(tmp_path / "saved.yaml")
    assert Recipe.load(tmp_path / "saved.yaml") == recipe == Recipe.from_dict(recipe.to_dict())


# -- mistakes, one line each ------------------------------------------------------------------------------------------
NUMBER = "recipe.yaml: train.steps: expected an integer from 1 to 1000000000, got {} (write a number such as 100)"
RATE = "recipe.yaml: train.learning_rate: expected auto or a number above 0, got {} (write a number such as 0.005)"
BUDGET = (
    "recipe.yaml: select.budget: expected a share above 0 up to 100%, or a number of parameters, got {} "
    "(write 2%, 0.02 or 100000)"
)
KEPT = "expected self, none or a .jsonl or .txt file, got {} (write {})"
MISTAKES = [
    # keys
    ("select: {budgt: 1%}", "recipe.yaml: select.budgt: unknown key (did you mean 'budget'?)"),
    ("budgt: 1%", "recipe.yaml: budgt: unknown key (did you mean 'select.budget'?)"),
    ("budget: 1%", "recipe.yaml: budget: unknown key (did you mean 'select.budget'?)"),
    ("seeed: 1", "recipe.yaml: seeed: unknown key (did you mean 'seed'?)"),
    ("train: {seed: 1}", "recipe.yaml: train.seed: unknown key (did you mean 'seed' at the top level?)"),
    ("train.steps: 5", "recipe.yaml: 'train.steps': unknown key (write steps indented below train)"),
    (
        "batch_size: 3",
        "recipe.yaml: batch_size: unknown key "
        "(did you mean 'localize.batch_size', 'train.batch_size' or 'evaluate.batch_size'?)",
    ),
    ("select: {xyzzy: 1}", "recipe.yaml: select.xyzzy: unknown key (one of: budget, first_layer, kinds, strategy)"),
    (r'select: {"a\nb": 1}', r"recipe.yaml: select.'a\nb': unknown key (one of: budget, first_layer, kinds, strategy)"),
    (
        "<<: {seed: 1}",
        "recipe.yaml: '<<': unknown key (one of: control, data, description, dtype, evaluate, localize, "
        "model, name, output, quantization, seed, select, train)",
    ),
    (
        "trust_remote_code: true",
        "recipe.yaml: trust_remote_code: unknown key "
        "(a recipe cannot ask for that; give --trust-remote-code on the command line)",
    ),
    # sections
    (
        "evaluate: 5",
        "recipe.yaml: evaluate: expected keys below it, got 5 "
        "(indent keys such as evaluate.max_new_tokens below it, or remove the line)",
    ),
    (
        "train:",
        "recipe.yaml: train: expected keys below it, got nothing "
        "(indent keys such as train.trainer below it, or remove the line)",
    ),
    ("train: 100", "recipe.yaml: train: expected keys below it, got 100 (did you mean 'data.train'?)"),
    # numbers
    ("train: {steps: ten}", NUMBER.format("'ten'")),
    ("train: {steps: 0}", NUMBER.format("0")),
    ("train: {steps: 1000000001}", NUMBER.format("1000000001")),
    ("train: {steps: 99999999999999999999999}", NUMBER.format("99999999999999999999999")),
    ("train: {steps: -3}", NUMBER.format("-3")),
    ("train: {steps: 1.5}", NUMBER.format("1.5")),
    ("train: {steps: 1e3}", NUMBER.format("1000.0")),
    ("train: {steps: true}", NUMBER.format("true")),
    ("train: {steps: }", NUMBER.format("nothing")),
    ("train: {steps: [1]}", NUMBER.format("a list")),
    ("train: {steps: {a: 1}}", NUMBER.format("a mapping")),
    ("train: {steps: '100'}", NUMBER.format("'100'")),
    ("train: {steps: 010}", NUMBER.format("'010'")),
    ("train: {steps: 1:30}", NUMBER.format("'1:30'")),
    ("train: {steps: " + "x" * 500 + "}", NUMBER.format("'" + "x" * 40 + "...'")),
    ("train: {learning_rate: fast}", RATE.format("'fast'")),
    ("train: {learning_rate: 0}", RATE.format("0")),
    ("train: {learning_rate: true}", RATE.format("true")),
    ("train: {learning_rate: .nan}", RATE.format("nan")),
    ("train: {learning_rate: .inf}", RATE.format("inf")),
    (
        "train: {weight_decay: -0.1}",
        "recipe.yaml: train.weight_decay: expected a number of at least 0, got -0.1 (write a number such as 0.0)",
    ),
    (
        "train: {warmup_steps: -1}",
        "recipe.yaml: train.warmup_steps: expected an integer of at least 0, got -1 (write a number such as 0)",
    ),
    ("seed: -1", "recipe.yaml: seed: expected an integer from 0 to 4294967295, got -1 (write a number such as 0)"),
    (
        "seed: 4294967296",
        "recipe.yaml: seed: expected an integer from 0 to 4294967295, got 4294967296 (write a number such as 0)",
    ),
    (
        "train: {mode: lora, rank: 0}",
        "recipe.yaml: train.rank: expected an integer above 0, got 0 (write a number such as 8)",
    ),
    # true and false
    (
        "train: {gradient_checkpointing: 1}",
        "recipe.yaml: train.gradient_checkpointing: expected true or false, got 1 (write true or false)",
    ),
    (
        "data: {name: x, preference: maybe}",
        "recipe.yaml: data.preference: expected true or false, got 'maybe' (write true or false)",
    ),
    # words
    ("train: {mode: slise}", "recipe.yaml: train.mode: unknown value 'slise' (did you mean 'slice'?)"),
    ("train: {mode: qqq}", "recipe.yaml: train.mode: unknown value 'qqq' (one of: freeze, lora, slice)"),
    ("train: {mode: 3}", "recipe.yaml: train.mode: expected slice, freeze or lora, got 3 (write a word such as slice)"),
    (
        "train: {trainer: [sft]}",
        "recipe.yaml: train.trainer: expected sft or dpo, got a list (write a word such as sft)",
    ),
    ("train: {lr_scheduler: cosin}", "recipe.yaml: train.lr_scheduler: unknown value 'cosin' (did you mean 'cosine'?)"),
    ("dtype: fp16", "recipe.yaml: dtype: unknown value 'fp16' (one of: bfloat16, float32)"),
    ("control: no", "recipe.yaml: control: expected random or none, got false (write none)"),
    ("control: off", "recipe.yaml: control: expected random or none, got false (write none)"),
    ("control: ~", "recipe.yaml: control: expected random or none, got nothing (write none)"),
    (
        "localize: {method: ~}",
        "recipe.yaml: localize.method: expected one of 31 words, got nothing (write a word such as ablation)",
    ),
    (
        "localize: {method: qqqqqqqq}",
        "recipe.yaml: localize.method: unknown value 'qqqqqqqq' (one of: ablation, activation, angular, attribution, "
        "block_influence, coherence, contrast, direct_logit, eap, execution_depth, fisher, frequency, gates, gradient, "
        "gradient_norm, integrated_gradients, logit_lens, low_rank, magnitude, massive, ... (31 in all))",
    ),
    ("control: randm", "recipe.yaml: control: unknown value 'randm' (did you mean 'random'?)"),
    ("localize: {method: gradint}", "recipe.yaml: localize.method: unknown value 'gradint' (did you mean 'gradient'?)"),
    ("select: {strategy: shuffle}", "recipe.yaml: select.strategy: unknown value 'shuffle' (did you mean 'shuffled'?)"),
    (
        "select: {strategy: no}",
        "recipe.yaml: select.strategy: expected top, bottom, random or shuffled, got false (write a word such as top)",
    ),
    # text
    ("name: 3", "recipe.yaml: name: expected text, got 3 (put it in quotes)"),
    ("name: a/b", "recipe.yaml: name: 'a/b' cannot name a folder (use up to 100 letters, digits, - and _)"),
    ("name: ..", "recipe.yaml: name: '..' cannot name a folder (use up to 100 letters, digits, - and _)"),
    (
        "name: " + "x" * 101,
        f"recipe.yaml: name: '{'x' * 40}...' cannot name a folder (use up to 100 letters, digits, - and _)",
    ),
    ("model: no", "recipe.yaml: model: expected text, got false (put it in quotes)"),
    ("model: ''", "recipe.yaml: model: expected text, got '' (write some or leave the key out)"),
    ("model:", "recipe.yaml: model: expected text, got nothing (write some or leave the key out)"),
    ("output: [a]", "recipe.yaml: output: expected text, got a list (write a single text)"),
    (
        "model: https://example.org/m",
        "recipe.yaml: model: 'https://example.org/m' is a URL, and these are not read (write a hub id or a path)",
    ),
    ("data: {name: x, contains: 5}", "recipe.yaml: data.contains: expected text, got 5 (put it in quotes)"),
    ("localize: {retain: off}", "recipe.yaml: localize.retain: " + KEPT.format("false", "none")),
    (
        "localize: {retain: selff}",
        "recipe.yaml: localize.retain: " + KEPT.format("'selff'", "self, or a path that ends in .jsonl or .txt"),
    ),
    (
        "evaluate: {retention: x.csv}",
        "recipe.yaml: evaluate.retention: " + KEPT.format("'x.csv'", "self, or a path that ends in .jsonl or .txt"),
    ),
    # budgets and kinds
    *[
        (f"select: {{budget: {text}}}", BUDGET.format(got))
        for text, got in {
            "ten": "'ten'",
            "0": "0",
            "101%": "'101%'",
            "-1%": "'-1%'",
            "true": "true",
            "[1%]": "a list",
            "": "nothing",
            ".nan": "nan",
        }.items()
    ],
    ("select: {kinds: head}", "recipe.yaml: select.kinds: expected a list, got 'head' (write [head, neuron])"),
    ("select: {kinds: []}", "recipe.yaml: select.kinds: an empty list chooses nothing (write [head, neuron])"),
    ("select: {kinds: [head, head]}", "recipe.yaml: select.kinds: a kind is written twice (write [head])"),
    ("select: {kinds: [heads]}", "recipe.yaml: select.kinds: unknown value 'heads' (did you mean 'head'?)"),
    (
        "select: {kinds: [[head]]}",
        "recipe.yaml: select.kinds: expected layer, head or neuron, got a list (write a word such as layer)",
    ),
    *[
        (
            f"train: {{prefix_cache: {text}}}",
            f"recipe.yaml: train.prefix_cache: expected auto, none or a size, got {shown} (write 1GB)",
        )
        for text, shown in {
            "big": "'big'",
            "0": "0",
            "-1": "-1",
            "true": "true",
            "[1GB]": "a list",
            "": "nothing",
        }.items()
    ],
    (
        "select: {first_layer: -1}",
        "recipe.yaml: select.first_layer: expected an integer of at least 0, got -1 (write a number such as 0)",
    ),
    # options
    (
        "data: {name: x, options: [1]}",
        "recipe.yaml: data.options: expected a mapping of options, got a list (write it as {key: value})",
    ),
    (
        "data: {name: x, options: {a: [1]}}",
        "recipe.yaml: data.options.a: expected a number, text, true or false, got a list (write a single value)",
    ),
    (
        "localize: {options: {a: .inf}}",
        "recipe.yaml: localize.options.a: expected a number, text, true or false, got inf (write a single value)",
    ),
    # right alone, wrong together
    ("data: {source: file}", "recipe.yaml: data.path: missing, source file needs one (write path: examples.jsonl)"),
    ("data: {source: hub}", "recipe.yaml: data.name: missing, source hub needs one (write name: owner/dataset)"),
    ("data: {}", "recipe.yaml: data.name: missing, source reasoning_gym needs one (write name: chain_sum)"),
    (
        "quantization: nf4\ntrain: {mode: freeze}",
        "recipe.yaml: quantization: mode freeze trains the weights themselves (write none, or mode: slice)",
    ),
    ("quantization: int4", "recipe.yaml: quantization: unknown value 'int4' (did you mean 'int8'?)"),
    (
        "train: {rank: 4, mode: freeze}",
        "recipe.yaml: train.rank: mode freeze has none (remove it, or write mode: slice or mode: lora)",
    ),
    (
        "train: {trainer: dpo}",
        "recipe.yaml: data.preference: trainer dpo needs pairs of answers (write preference: true)",
    ),
    (
        "data: {name: x, preference: true}",
        "recipe.yaml: data.preference: trainer sft learns single answers (write preference: false, or trainer: dpo)",
    ),
    # not even YAML
    ("seed: 1\nseed: 2", "recipe.yaml: line 3: 'seed' is written twice (keep one; the first is on line 2)"),
    ("train: {steps: 1, steps: 1}", "recipe.yaml: line 2: 'steps' is written twice (keep one; the first is on line 2)"),
    ("1: 2", "recipe.yaml: line 2: a key must be text, got '1' (put it in quotes)"),
    ("on: 2", "recipe.yaml: line 2: a key must be text, got 'on' (put it in quotes)"),
    ("[a]: 2", "recipe.yaml: line 2: a key must be text, got a list or mapping (put it in quotes)"),
    ("model: !x a", "recipe.yaml: line 2: the tag '!x' is not read (remove it, or put the text in quotes)"),
    (
        "model: !!python/object/apply:os.system [ls]",
        "recipe.yaml: line 2: the tag '!!python/object/apply:os.system' is not read "
        "(remove it, or put the text in quotes)",
    ),
    ("seed: !!int 3", "recipe.yaml: line 2: the tag '!!int' is not read (remove it, or put the text in quotes)"),
    *[
        (
            f"model: {text}",
            "recipe.yaml: line 2: anchors (&) and aliases (*) are not read (write the value out, or put it in quotes)",
        )
        for text in ("&a b", "*a", "[&a b, *a]")
    ],
    ("---\nseed: 1", "recipe.yaml: line 2: a second document begins (one recipe is one document)"),
    (
        "model: a: b",
        "recipe.yaml: line 2: unexpected ':' (check this line and the one above; put text with ': ' in quotes)",
    ),
    ("train:\n\tsteps: 1", "recipe.yaml: line 3: a tab (indent with spaces)"),
    (
        "train:\n  steps: 1\n mode: x",
        "recipe.yaml: line 4: not aligned with the lines above (indent the keys of a section alike)",
    ),
    ("train: {steps: 1", "recipe.yaml: line 3: a [ or { is not closed (close it)"),
    ("model: 'a", "recipe.yaml: line 3: a quote is not closed (close it)"),
    (
        "model: @a",
        "recipe.yaml: line 2: not valid YAML, found character '@' that cannot start any token "
        "(put text with special characters in quotes)",
    ),
    ("model: a\x07b", "recipe.yaml: line 2: the control character '\\x07' (remove it)"),
    (r'model: "a\0b"', "recipe.yaml: line 2: the control character '\\x00' (remove it)"),
    (r'model: "\ud800"', "recipe.yaml: line 2: the control character '\\ud800' (remove it)"),
    (r'model: "\UFFFFFFFF"', "recipe.yaml: line 1: not valid YAML (check the escapes in quoted text)"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[text[:40] for text, _ in MISTAKES])
def test_a_mistake_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    data = "" if text.startswith("data:") else "data: {name: chain_sum}\n"
    assert errors_of(tmp_path, f"{data}{text}\n") == message


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "recipe.yaml: empty (start from a shipped one: guided-ft recipes copy quickstart)"),
        (b"# nothing\n", "recipe.yaml: empty (start from a shipped one: guided-ft recipes copy quickstart)"),
        (b"- a\n- b\n", "recipe.yaml: not a mapping (write lines such as 'seed: 0')"),
        (b"quickstart\n", "recipe.yaml: not a mapping (write lines such as 'seed: 0')"),
        (b"seed: 1\nmodel: \xff\n", "recipe.yaml: line 2: not UTF-8 text (save the file as UTF-8)"),
        ("seed: 1\n".encode("utf-16"), "recipe.yaml: line 1: not UTF-8 text (save the file as UTF-8)"),
        (b"#" * 1_000_001, "recipe.yaml: larger than 1000000 bytes (a recipe is a short file)"),
        (b"a: " + b"[" * 5000, "recipe.yaml: line 1: nested more than 20 deep (a recipe needs 3 levels)"),
        (b"- " * 5000, "recipe.yaml: line 1: nested more than 20 deep (a recipe needs 3 levels)"),
        (b"a:\n" + b"- 1\n" * 20_000, "recipe.yaml: line 9999: more than 10000 values (a recipe is a short file)"),
    ],
    ids=["empty", "comment", "list", "word", "latin-1", "utf-16", "large", "deep", "deep list", "long"],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, raw: bytes, message: str) -> None:
    assert errors_of(tmp_path, raw) == message


def test_a_bomb_of_aliases_does_not_go_off(tmp_path: Path) -> None:
    bomb = "a0: &a0 [lol, lol]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 30))
    assert errors_of(tmp_path, bomb).startswith("recipe.yaml: line 1: anchors (&) and aliases (*) are not read")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("data: {name: x}\n", encoding="utf-8-sig")
    assert Recipe.load(tmp_path / "a.yaml").data.name == "x"


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = "seed: x\nselect: {budgt: 1%}\ntrain: {steps: 0, rank: 3, mode: freeze, trainer: dpo}\n"
    assert errors_of(tmp_path, text).splitlines() == [
        "recipe.yaml: seed: expected an integer from 0 to 4294967295, got 'x' (write a number such as 0)",
        "recipe.yaml: select.budgt: unknown key (did you mean 'budget'?)",
        NUMBER.format("0"),
        "recipe.yaml: data.name: missing, source reasoning_gym needs one (write name: chain_sum)",
        "recipe.yaml: train.rank: mode freeze has none (remove it, or write mode: slice or mode: lora)",
        "recipe.yaml: data.preference: trainer dpo needs pairs of answers (write preference: true)",
    ]


def test_a_flood_of_problems_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    meant = mends.did_you_mean
    monkeypatch.setattr(mends, "did_you_mean", lambda *words: (asked.append(words), meant(*words))[1])
    lines = errors_of(tmp_path, "".join(f"k{i}: 1\n" for i in range(4000))).splitlines()
    assert len(lines) == 51
    assert lines[-1] == "recipe.yaml: 3951 more problems (mend these first)"
    # What is not shown is not worked out.
    assert 0 < len(asked) <= 50


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("quickstrt", "'quickstrt': no shipped recipe has this name (did you mean 'quickstart'?)"),
        ("no/such.yaml", "such.yaml: cannot be read: No such file or directory (check the path)"),
        ("a\0.yaml", "'a\\x00.yaml': cannot be read: not a file name (check the path)"),
        ("no/such", "such: cannot be read: No such file or directory (check the path)"),
    ],
)
def test_a_recipe_that_is_not_there(asked: str, message: str) -> None:
    with pytest.raises(GuidedError) as caught:
        Recipe.load(asked)
    assert str(caught.value) == message


# -- overrides --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.steps=50", "train.steps", 50),
        ("steps=50", "train.steps", 50),
        ("budget=1%", "select.budget", "1%"),
        ("method=gradient", "localize.method", "gradient"),
        ("learning_rate=5e-3", "train.learning_rate", 0.005),
        ("kinds=[layer]", "select.kinds", ("layer",)),
        ("data.options={min_terms: 3}", "data.options", {"min_terms": 3}),
        (
            "data.options.min_terms=3",
            "data.options",
            {"min_terms": 3, "max_terms": 2, "min_digits": 2, "max_digits": 2},
        ),
        ("localize.options.steps=8", "localize.options", {"steps": 8}),
        ("gradient_checkpointing=yes", "train.gradient_checkpointing", True),
        ("model=owner/name", "model", "owner/name"),
        ("control=none", "control", "none"),
        ("seed=3", "seed", 3),
        ("output=", "output", None),
        ("output=a=b", "output", "a=b"),
        ("contains=' - '", "data.contains", " - "),
        (" steps = 7 ", "train.steps", 7),
    ],
)
def test_an_override_is_set(override: str, path: str, value: Any) -> None:
    assert _get(Recipe.load("quickstart", [override]), path) == value


def _get(recipe: Recipe, path: str) -> Any:
    found: Any = recipe
    for key in path.split("."):
        found = getattr(found, key)
    return found


def test_every_key_can_be_overridden_and_every_unique_leaf_too() -> None:
    leaves = [path.rpartition(".")[2] for path in keys()]
    for path in keys():
        leaf = path.rpartition(".")[2]
        for typed in {path, leaf if leaves.count(leaf) == 1 and leaf != "train" else path}:
            with pytest.raises(GuidedError, match=rf"(?m)^override: {re.escape(path)}(\.a)?: ") as caught:
                Recipe.load("quickstart", [f"{typed}={{a: {{b: [1]}}}}"])
            assert "unknown key" not in str(caught.value)


def test_the_last_override_wins_and_touches_nothing_else() -> None:
    changed = Recipe.load("quickstart", ["steps=1", "steps=2"]).to_dict()
    expected = Recipe.load("quickstart").to_dict()
    expected["train"]["steps"] = 2
    assert changed == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("select.budgt=1%", "override: select.budgt: unknown key (did you mean 'budget'?)"),
        ("budgt=1%", "override: budgt: unknown key (did you mean 'select.budget'?)"),
        (
            "steps=ten",
            "override: train.steps: expected an integer from 1 to 1000000000, got 'ten' (write a number such as 100)",
        ),
        (
            "batch_size=4",
            "override: batch_size: several keys have this name "
            "(write localize.batch_size, train.batch_size or evaluate.batch_size)",
        ),
        ("options={}", "override: options: several keys have this name (write data.options or localize.options)"),
        ("steps", "override: 'steps' is not KEY=VALUE (write it like steps=50)"),
        ("=5", "override: '=5' is not KEY=VALUE (write it like steps=50)"),
        ("train=5", "override: train: expected keys below it, got 5 (did you mean 'data.train'?)"),
        ("seed.x=5", "override: seed.x: unknown key (seed has no keys below it)"),
        (
            "train.steps.x=5",
            "override: train.steps.x: unknown key (train.steps has no keys below it)",
        ),
        (
            "train..x=5",
            "override: train.'': unknown key (one of: accumulate, batch_size, beta, gradient_checkpointing, "
            "learning_rate, lr_scale, lr_scheduler, max_grad_norm, max_length, mode, prefix_cache, rank, save_steps, steps, "
            "trainer, warmup_steps, weight_decay)",
        ),
        ("rank=0", "override: train.rank: expected an integer above 0, got 0 (write a number such as 8)"),
        (
            "model=*a",
            "override: model: anchors (&) and aliases (*) are not read (write the value out, or put it in quotes)",
        ),
        ("model=!x a", "override: model: the tag '!x' is not read (remove it, or put the text in quotes)"),
        ("kinds=[head", "override: select.kinds: a [ or { is not closed (close it)"),
        (
            "a\nb=1",
            "override: 'a\\nb': unknown key (one of: control, data, description, dtype, evaluate, localize, "
            "model, name, output, quantization, seed, select, train)",
        ),
        ("a\nb=[", "override: 'a\\nb': a value is missing, or begins with a special character (put it in quotes)"),
    ],
)
def test_a_mistaken_override_is_told_in_one_line(override: str, message: str) -> None:
    with pytest.raises(GuidedError) as caught:
        Recipe.load("quickstart", [override])
    assert str(caught.value) == message


def test_each_problem_is_blamed_on_its_own_source(tmp_path: Path) -> None:
    text = "data: {name: x}\ntrain: {rank: 8, mode: lora, steps: 0}\n"
    assert errors_of(tmp_path, text, "seed=-1", "mode=freeze").splitlines() == [
        "override: seed: expected an integer from 0 to 4294967295, got -1 (write a number such as 0)",
        NUMBER.format("0"),
        "recipe.yaml: train.rank: mode freeze has none (remove it, or write mode: slice or mode: lora)",
    ]


# -- garbage ----------------------------------------------------------------------------------------------------------
LINE = re.compile(r"recipe\.yaml: .+ \(.+\)")
words = st.sampled_from([path.rpartition(".")[2] for path in keys()] + ["train", "data", "select", "localize", "x"])
values = st.recursive(
    scalars | tricky | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | plain_text, inner, max_size=3),
    max_leaves=6,
)
near_misses = st.dictionaries(
    words | plain_text, values | st.dictionaries(words | plain_text, values, max_size=4), max_size=6
)
yaml_text = st.text(
    st.sampled_from("ab: -[]{}&*!%@`'\"|>#?,\n\t\\0.5e~<=x\x00\x85\u2028") | st.characters(), max_size=60
)


def _loads_or_says_why(path: Path) -> None:
    try:
        assert isinstance(Recipe.load(path), Recipe)
    except GuidedError as error:
        for line in str(error).split("\n"):
            assert line.isprintable()
            assert LINE.fullmatch(line)
            assert len(line) < 400
            assert "pydantic" not in line


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=80) | yaml_text.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_load_or_are_refused_in_lines(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(raw)
    _loads_or_says_why(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=near_misses)
def test_any_data_loads_or_is_refused_in_lines(tmp_path: Path, data: dict[str, Any]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(strict_yaml.dump(data), encoding="utf-8")
    _loads_or_says_why(path)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.builds("{}={}".format, st.sampled_from(list(keys())) | plain_text, yaml_text) | yaml_text, max_size=3)
)
def test_any_overrides_load_or_are_refused_in_lines(overrides: list[str]) -> None:
    try:
        assert isinstance(Recipe.load("quickstart", overrides), Recipe)
    except GuidedError as error:
        for line in str(error).split("\n"):
            assert line.isprintable()
            assert re.fullmatch(r"(override|quickstart\.yaml): .+ \(.+\)", line)
