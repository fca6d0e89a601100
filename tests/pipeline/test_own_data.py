"""One's own file in place of a recipe's data: nothing of that recipe's data stays."""

from __future__ import annotations

import json

import pytest
import tiny_run
from refusing import refuses

from guided_ft.errors import GuidedError
from guided_ft.pipeline.data import load_rows
from guided_ft.pipeline.pipeline import run
from guided_ft.pipeline.stages import Run
from guided_ft.recipe.recipe import Data, Recipe
from guided_ft.task.answers import answer_length

LONG = "refund the customer"


@pytest.fixture
def tickets(tmp_path):
    path = tmp_path / "tickets.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"ticket {i}:", "completion": f" {LONG}"}) + "\n" for i in range(60)))
    return path


def own(path, *more: str, **data) -> Recipe:
    return Recipe.load("quickstart", [f"data={path}", *more])


def test_three_ways_to_name_a_file_are_one(tickets):
    ways = [
        Recipe.load(str(tickets), ["steps=20"]),
        own(tickets, "steps=20"),
        Recipe.load("quickstart", ["data.source=file", f"data.path={tickets}", "steps=20"]),
        Recipe.load("quickstart", ["steps=20", f"path={tickets}"]),
    ]
    assert ways[1:] == ways[:1] * 3
    recipe, quick = ways[0], Recipe.load("quickstart")
    assert recipe.data == Data(source="file", path=str(tickets))
    assert (recipe.name, recipe.description, recipe.train.steps) == ("tickets", "", 20)
    assert (recipe.select, recipe.localize, recipe.model) == (quick.select, quick.localize, quick.model)
    train, test = load_rows(recipe.data)
    assert (len(train), len(test)) == (48, 12)


@pytest.mark.parametrize("name", ["\U0001f600", "t\u00e9l\u00e9", 'a "b" \\n: {c} #d', "漢" * 80])
def test_a_file_may_be_called_anything(name, tickets):
    path = tickets.rename(tickets.with_name(f"{name}.jsonl"))
    assert Recipe.load(str(path)).data == Data(source="file", path=str(path))


def test_what_else_is_typed_holds(tickets):
    recipe = own(tickets, "name=mine", "contains='1'", "data.test=2", "max_new_tokens=5", "description=d")
    assert (recipe.name, recipe.description, recipe.evaluate.max_new_tokens) == ("mine", "d", 5)
    assert (recipe.data.contains, recipe.data.test, recipe.data.train) == ("1", 2, "auto")
    # The same source again is no change.
    again = Recipe.load("sums", ["data.name=chain_sum", "data.source=reasoning_gym", "data.train=3"])
    assert again == Recipe.load("sums", ["data.train=3"])


def test_another_model_has_other_layers():
    """The twelfth layer of the recipe's own is beyond the last one of many."""
    sums = Recipe.load("sums")
    assert sums.select.first_layer == 12
    assert Recipe.load("sums", [f"model={sums.model}"]).select == sums.select
    assert Recipe.load("sums", ["model=gpt2"]).select.first_layer == 0
    assert Recipe.load("sums", ["model=gpt2", "first_layer=3"]).select.first_layer == 3


def test_another_generator_or_dataset_drops_the_filter_too(tmp_path):
    other = Recipe.load("dpo_sums", ["data.name=gcd"])
    assert other.data == Data(name="gcd", preference=True)
    assert other.name == "gcd"
    hub = Recipe.load("quickstart", ["data.source=hub", "data.name=owner/rows"])
    assert (hub.data, hub.name) == (Data(source="hub", name="owner/rows"), "rows")
    mine = tmp_path / "mine.yaml"
    text = "data: {source: file, path: a.jsonl, contains: x, train: 7}\nevaluate: {max_new_tokens: 8, batch_size: 3}\n"
    mine.write_text(text)
    moved = Recipe.load(mine, ["data.path=b/c d.jsonl"])
    assert (moved.data, moved.name) == (Data(source="file", path="b/c d.jsonl"), "c-d")
    assert (moved.evaluate.max_new_tokens, moved.evaluate.batch_size) == ("auto", 3)
    assert Recipe.load(mine, ["steps=3"]).data.contains == "x"


@pytest.mark.parametrize(
    ("typed", "sizes"),
    [
        ([], (48, 12)),
        (["data.test=10%"], (54, 6)),
        (["data.test=0"], (60, 0)),
        (["data.test=0%", "data.train=50%"], (30, 0)),
        (["data.train=55"], (55, 5)),
        (["data.train=90%"], (54, 6)),
        (["data.train=10"], (10, 12)),
        (["data.test=20"], (40, 20)),
        (["contains='ticket 1'"], (9, 2)),
    ],
)
def test_counts_and_shares(typed, sizes, tickets):
    train, test = load_rows(own(tickets, *typed).data)
    assert (len(train), len(test)) == sizes
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}


def test_a_large_file_keeps_a_hundred_to_test_and_a_test_file_all_rows_to_train(tickets, tmp_path):
    large = tmp_path / "large.jsonl"
    large.write_text("".join(json.dumps({"prompt": f"{i}", "completion": " c"}) + "\n" for i in range(900)))
    for typed, sizes in (([], (800, 100)), ([f"test_path={tickets}"], (900, 60)), (["data.test=50%"], (450, 450))):
        train, test = load_rows(own(large, *typed).data)
        assert (len(train), len(test)) == sizes


def test_rows_beyond_what_auto_takes_are_told(tickets, monkeypatch, caplog):
    monkeypatch.setattr("guided_ft.pipeline.data.MAX_ROWS", 30)
    assert len(load_rows(own(tickets, "data.train=40").data)[0]) == 40
    assert len(load_rows(own(tickets, "data.test=50%").data)[0]) == 30
    assert not caplog.messages
    train, test = load_rows(own(tickets).data)
    assert (len(train), len(test)) == (30, 12)
    assert caplog.messages == ["data: auto trains on 30 of 48 rows (data.train: a number takes more)"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["contains=' + '"], "data: 0 different rows contain ' + ' (data.contains), but"),
        (
            ["data.train=60"],
            "data: 60 different rows, but train=60 and test=1 were asked for (lower them)",
        ),
        (
            ["data.train=200", "data.test=100"],
            "data: 60 different rows, but train=200 and test=100 were asked for (lower them)",
        ),
    ],
)
def test_a_split_that_cannot_be_names_the_key(typed, message, tickets):
    with pytest.raises(GuidedError) as caught:
        load_rows(own(tickets, *typed).data)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("data.train=0", "override: data.train: expected auto, a share below 100% or an integer above 0, got 0"),
        ("data.train=0%", "override: data.train: expected auto"),
        ("data.test=120%", "override: data.test: expected auto, a share below 100% or an integer of at least 0"),
        ("data.test=10%", "override: data.test: a generator draws without end, so it has no shares"),
        ("max_new_tokens=0", "override: evaluate.max_new_tokens: expected auto or an integer above 0, got 0"),
        ("data=tickets", "override: data: expected keys below it"),
    ],
)
def test_wrong_amounts_are_one_line(typed, message):
    with pytest.raises(GuidedError) as caught:
        Recipe.load("sums", [typed])
    assert str(caught.value).startswith(message)
    assert all(line.startswith("override: data") for line in str(caught.value).splitlines()[1:])


def test_a_warm_up_that_outlasts_the_training_is_told_first(tickets, tmp_path, monkeypatch):
    told = "train.warmup_steps: a warm-up of {} in a training of {} steps never reaches the learning rate (write less)"
    with refuses("override: " + told.format(60, 20)):
        own(tickets, "steps=20", "warmup_steps=60")
    own(tickets, "steps=20", "warmup_steps=19")
    own(tickets, "epochs=2", "warmup_steps=100")
    # How many steps epochs make, only the rows tell: 48 of them, in batches of 4.
    settings = [f"model={tiny_run.recipe(tmp_path).model}", f"output={tmp_path / 'run'}", "first_layer=0"]
    recipe = own(tickets, *settings, "epochs=2", "warmup_steps=24", "train.batch_size=4")
    monkeypatch.setattr("guided_ft.pipeline.stages.load_model", lambda *args, **kw: pytest.fail("it was loaded"))
    with refuses(told.format(24, 24)):
        run(recipe, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_missing_file_is_said_at_once():
    with pytest.raises(GuidedError, match=r"none.jsonl'?: no such file"):
        Recipe.load("none.jsonl")


def test_the_answer_length_holds_the_longest_answer_and_shows_who_goes_on(caplog):
    assert answer_length([2, 3], 256) == 8
    assert answer_length([2, 19], 256) == 19 + 4
    assert answer_length([19], 12) == 12
    assert answer_length([19], 256, 19) == 19
    assert not caplog.records
    assert answer_length([1, 19], 256, 8) == 8
    assert "8 tokens cannot hold the longest right answer, which has 19" in caplog.text


def test_a_run_on_own_rows_names_them_and_without_tests_still_ends(tickets, tmp_path):
    made = tiny_run.recipe(tmp_path)
    settings = ["data.test=0", f"model={made.model}", f"output={tmp_path / 'own'}", "steps=2", "first_layer=0"]
    settings += ["budget=15%", "localize.examples=8", "retention_examples=4", "retention_tokens=12", "control=none"]
    recipe = own(tickets, *settings)
    record = run(recipe, quiet=True)
    assert (record["task"]["name"], record["name"]) == ("tickets", "tickets")
    assert (record["before"], record["task"]["test"], record["task"]["train"]) == ({"examples": 0}, 0, 60)
    assert record["retention"]["after"]["kl"] > 0
    assert (tmp_path / "own" / "report.html").exists()
    assert Run(own(tickets, f"model={made.model}")).answer_length == len(LONG) + 1 + 4


@pytest.mark.parametrize("columns", [{}, {"chosen": "good", "rejected": "bad"}])
def test_a_file_of_pairs_is_trained_with_dpo(tmp_path, columns):
    path = tmp_path / "pairs.jsonl"
    names = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", **columns}
    rows = [{names["prompt"]: f"{i}", names["chosen"]: " a", names["rejected"]: " b"} for i in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    typed = [f"columns={json.dumps({'prompt': 'prompt', **columns})}"] if columns else []
    recipe = Recipe.load(str(path), typed)
    assert recipe.train.trainer == "dpo"
    train, test = load_rows(recipe.data, trainer="dpo")
    assert (len(train), len(test), set(train[0])) == (8, 2, {"prompt", "chosen", "rejected"})
    with pytest.raises(GuidedError, match=r"the rows are pairs .* \(write trainer=dpo\)"):
        load_rows(Recipe.load(str(path), [*typed, "trainer=sft"]).data)
