"""Overrides: key=value on the command line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from guided_ft.errors import GuidedError
from guided_ft.recipe.recipe import Recipe, keys
from guided_ft.task import formats
from recipes import NUMBER, errors_of


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
    assert _get(Recipe.load("sums", [override]), path) == value


def test_columns_and_prompts_are_told_as_a_shell_needs_them() -> None:
    page = (Path(formats.__file__).parent / "README.md").read_text(encoding="utf-8")
    with pytest.raises(GuidedError) as refused:
        formats.recognise({"statement": "x"})
    told = re.findall(r"write (.*)\)$", str(refused.value)) + re.findall(
        r"`([^`]*data\.(?:columns|prompt)=[^`]*)`", page
    )
    read = [Recipe.load("quickstart", ["data.path=rows.jsonl", *shlex.split(typed)]).data for typed in told]
    assert [(data.columns, data.prompt) for data in read] == [
        ({"prompt": "yours", "completion": "yours"}, None),
        ({"prompt": "statement", "chosen": "matching", "rejected": "not_matching"}, None),
        ({}, "{article} {Customer message}"),
    ]


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
                Recipe.load("sums", [f"{typed}={{a: {{b: [1]}}}}"])
            assert "unknown key" not in str(caught.value)


def test_the_last_override_wins_and_touches_nothing_else() -> None:
    changed = Recipe.load("sums", ["steps=1", "steps=2"]).to_dict()
    expected = Recipe.load("sums").to_dict()
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
            "override: train.'': unknown key (one of: accumulate, arguments, batch_size, beta, epochs, gradient_checkpointing, "
            "learning_rate, lr_scale, lr_scheduler, max_grad_norm, max_length, mode, mode_options, prefix_cache, rank, "
            "reward, save_steps, steps, trainer, warmup_steps, ... (21 in all))",
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
        Recipe.load("sums", [override])
    assert str(caught.value) == message


def test_steps_beside_epochs_are_refused_where_both_are_typed() -> None:
    for typed in (["epochs=3", "steps=50"], ["train.steps=50", "train.epochs=0.5"]):
        with pytest.raises(GuidedError) as caught:
            Recipe.load("quickstart", typed)
        assert str(caught.value) == "override: train.steps: train.epochs takes its place (write one of the two)"
    train = Recipe.load("quickstart", ["epochs=", "steps=50"]).train
    assert (train.steps, train.epochs) == (50, None)


def test_each_problem_is_blamed_on_its_own_source(tmp_path: Path) -> None:
    text = "data: {name: x}\ntrain: {rank: 8, mode: lora, steps: 0}\n"
    assert errors_of(tmp_path, text, "seed=-1", "mode=freeze").splitlines() == [
        "override: seed: expected an integer from 0 to 4294967295, got -1 (write a number such as 0)",
        NUMBER.format("0"),
        "recipe.yaml: train.rank: mode freeze has none (remove it, or write mode: slice or mode: lora)",
    ]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            ["test_path=b.jsonl"],
            "override: data.test_path: source reasoning_gym has none (remove it, or write source: file)",
        ),
        (
            ["data.source=hub", "data.name=a/b", "path=b.jsonl"],
            "override: data.path: source hub has none (remove it, or write source: file)",
        ),
        (["data.source=fil", "test_path=b.jsonl"], "override: data.source: unknown value 'fil' (did you mean 'file'?)"),
    ],
)
def test_a_file_that_the_source_does_not_read_is_refused(tmp_path, typed, told):
    assert errors_of(tmp_path, "data: {name: chain_sum}", *typed) == told
