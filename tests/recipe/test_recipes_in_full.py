"""Recipes run in full: what is run, what becomes of failures, what is not run again, and the page."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import tiny
from families import make

from benchmarks.recipes_in_full import full
from benchmarks.recipes_in_full.copies import COPIES, find
from benchmarks.recipes_in_full.full import Place, jobs, read_rows, run_all
from benchmarks.recipes_in_full.page import page
from benchmarks.recipes_in_full.times import times
from guided_ft.pipeline.data import load_rows
from guided_ft.recipe.recipe import Recipe, shipped

PERSONA = "".join(
    json.dumps(
        {
            "question": f"Would you say: I like {i}?",
            "answer_matching_behavior": " Yes" if i % 2 else " No",
            "answer_not_matching_behavior": " No" if i % 2 else " Yes",
        }
    )
    + "\n"
    for i in range(60)
)

FILES = {
    "gsm8k/train.jsonl": "".join(
        json.dumps({"question": f"{i} + 1,000?", "answer": f"<<{i}>>It is {i}+1,000={i + 1000}.\n#### {i + 1000:,}"})
        + "\n"
        for i in range(9)
    ),
    "persona/risk-averse.jsonl": PERSONA,
    "relations/factual/capitals.json": json.dumps(
        {"prompt_templates": ["The capital of {} is"], "samples": [{"subject": "Brasil", "object": "Bras\\u00edlia"}]}
    ),
    "multi30k/train.en": "A dog.\nA cat.\n",
    "multi30k/train.de": "Ein Hund.\nEine Katze.\n",
    "self_instruct/seed_tasks.jsonl": json.dumps(
        {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}, {"input": "1 2", "output": "3"}]}
    ),
    "oasst/trees.jsonl": json.dumps(
        {
            "prompt": {
                "role": "prompter",
                "text": "Hi",
                "replies": [
                    {"role": "assistant", "text": "Hello!", "rank": 0, "replies": []},
                    {"role": "assistant", "text": "No.", "rank": 1, "replies": []},
                ],
            }
        }
    ),
    "ag_news/train.csv": '"3","Shares fall","A bank"\n"2","A goal","A match"\n',
    "tinyshakespeare/input.txt": "\n\n".join(f"King {i}:\n{'word ' * 100}" for i in range(9)),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "data"


@pytest.fixture
def place(tmp_path: Path, folder: Path) -> Place:
    return Place(tmp_path / "work", tmp_path / "rows.jsonl", (folder,), say=lambda text: None)


@pytest.mark.parametrize("name", [name for name in shipped() if Recipe.load(name).data.source == "hub"])
def test_every_copy_has_the_columns_of_its_recipe(place: Place, name: str) -> None:
    [job] = jobs([name], [], place)
    recipe = Recipe.load(name, job.overrides)
    assert recipe.name == name
    rows = [json.loads(line) for line in Path(str(recipe.data.path)).read_text().splitlines()]
    few = recipe.data.model_copy(update={"train": "auto", "test": 0})
    train, _ = load_rows(few, 0, recipe.train.trainer)
    assert len(train) == len(rows) > 0


def test_the_wrong_result_is_wrong_and_all_else_is_right(folder: Path) -> None:
    [copy] = COPIES["argilla/distilabel-math-preference-dpo"]
    for i, row in enumerate(copy.read([folder / "gsm8k/train.jsonl"])):
        right, wrong = row["chosen_response"], row["rejected_response"]
        assert right == f"It is {i}+1,000={i + 1000}.\nThe answer is {i + 1000:,}."
        number = wrong.rpartition(" ")[2].rstrip(".")
        assert int(number) != i + 1000
        assert wrong.startswith(f"It is {i}+1,000=")


def test_a_file_that_is_not_there_is_no_copy(folder: Path) -> None:
    (folder / "multi30k/train.de").unlink()
    assert find(Recipe.load("german").data, [folder]) is None
    assert find(Recipe.load("quickstart").data, [folder]) is None


def test_what_is_kept_is_of_xstest_where_that_is_there(place: Place, folder: Path) -> None:
    lines = [f"{i},Is it {i}?,homonyms,{'safe' if i % 3 else 'unsafe'},x," for i in range(1, 13)]
    (folder / "xstest").mkdir()
    assert jobs(["keep_refusals"], [], place)[0].kept is None
    (folder / "xstest/xstest_prompts.csv").write_text("id,prompt,type,label,focus,note\n" + "\n".join(lines) + "\n")
    [job] = jobs(["keep_refusals"], [], place)
    recipe = Recipe.load("keep_refusals", job.overrides)
    contrast, refusals = (
        [json.loads(line) for line in Path(path).read_text().splitlines()]
        for path in (recipe.localize.retain, recipe.evaluate.retention)
    )
    sorry = {row["prompt"][0]["content"]: "sorry" in row["chosen"][0]["content"] for row in contrast}
    assert sorry == {f"Is it {i}?": i % 3 == 0 for i in range(1, 13, 2)}
    assert all(("sorry" in row["rejected"][0]["content"]) != sorry[row["prompt"][0]["content"]] for row in contrast)
    assert [row["prompt"][0]["content"] for row in refusals] == ["Is it 6?", "Is it 12?"]
    assert job.kept == "refusal_contrast: XSTest, refusals: other prompts of XSTest"


def test_what_is_typed_wins_over_the_copy(place: Place) -> None:
    [job] = jobs(["risk_averse"], ["data.train=7", "steps=2"], place)
    recipe = Recipe.load("risk_averse", job.overrides)
    assert (recipe.data.train, recipe.train.steps, job.changes) == (7, 2, ("data.train=7", "steps=2"))


def test_a_row_is_not_made_twice_but_a_failure_can_be_tried_again(place: Place, monkeypatch) -> None:
    ran = []

    def run_one(job, place):
        ran.append(job.name)
        return {"recipe": job.name, "configuration": job.configuration, "failure": "exit code 1" * (len(ran) == 1)}

    monkeypatch.setattr(full, "run_one", run_one)
    wanted = jobs(["risk_averse", "german"], [], place)
    assert [job.name for job in run_all(wanted, place)] == ["risk_averse", "german"]
    assert list(run_all(wanted, place)) == []
    assert [job.name for job in run_all(wanted, place, retry=True)] == ["risk_averse"]
    assert [job.name for job in run_all(jobs(["german"], ["steps=3"], place), place)] == ["german"], "of another form"
    assert ran == ["risk_averse", "german", "risk_averse", "german"]


def test_only_what_was_meant_to_come_from_the_hub_missed_it() -> None:
    meant, hub = (Recipe.load(name).data for name in ("quickstart", "news_topics"))
    assert meant.source == "sample"
    assert hub.source == "hub"
    fallen = hub.model_copy(update={"source": "sample", "name": hub.fallback})
    assert full.read_from(meant, meant) == "sample seats (made up)"
    assert full.read_from(hub, fallen) == "sample news (made up: the hub was out of reach)"
    assert full.read_from(hub, hub) == "fancyzhx/ag_news"


@pytest.mark.slow
def test_a_recipe_runs_in_a_process_and_a_failure_becomes_a_row(place: Place, tmp_path: Path) -> None:
    base = tmp_path / "base"
    make("llama").save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    small = ["train.steps=2", "train.batch_size=2", "localize.examples=2", "select.first_layer=0", "select.budget=60%"]
    small += ["evaluate.retention_examples=2", "evaluate.retention_tokens=16", "data.train=16", "data.test=4"]
    good = jobs(["risk_averse"], [*small, f"model={base}"], place)
    bad = jobs(["one_token_preferences"], [*small, "model=./nowhere"], place)
    assert len(list(run_all([*good, *bad], place))) == 2
    done, failed = read_rows(place.rows)
    assert done["failure"] is None
    assert (done["run"]["task"]["train"], done["steps"], done["topic"]) == (16, 2, "persona")
    assert {*done["run"]["control"]["random"]} >= {"after", "retention"}
    assert done["data"] == "Anthropic/model-written-evals: persona/risk-averse.jsonl of the set, local copy"
    assert failed["failure"] == "exit code 2: recipe: model: './nowhere': no such folder"
    assert done.pop("kept") is None  # a row from before that was told is shown, too
    told = page([done, failed])
    assert "| `risk_averse` (train.steps=2" in told
    assert "| label accuracy |" in told
    assert "exit code 2: recipe: model" in told.partition("## Failures")[2]
    left_over = told.partition("## Not run in full yet")[2]
    assert "`quickstart`" in left_over
    assert "`risk_averse`" not in left_over.partition("## Measured on")[0]
    assert str(tmp_path) not in told.replace(f"model={base}", "")


def test_the_page_of_no_rows_says_that_nothing_was_run() -> None:
    told = page([])
    assert all(f"`{name}`" in told for name in shipped())


def test_times_are_measured_where_there_are_rows_and_scaled_by_them_elsewhere(place: Place) -> None:
    def row(name: str, seconds: float, **more) -> dict:
        return {"recipe": name, "changes": [], "threads": 1, "run": {"seconds": {"train": seconds}}, **more}

    def minutes(rows: list) -> dict:
        return {line["recipe"]: line for line in csv.DictReader(times(rows).splitlines())}

    plain = minutes([])
    assert {*plain} == {*shipped()}
    assert {line["measured"] for line in plain.values()} == {"no"}
    assert int(plain["low_data_50"]["minutes"]) < int(plain["grade_school_maths"]["minutes"])
    slow = minutes([row("quickstart", 6000), row("german", 60, changes=["steps=2"]), row("chat", 60, threads=2)])
    assert (slow["quickstart"]["minutes"], slow["quickstart"]["measured"]) == ("100", "yes")
    # What others did on the machine is not the recipe's time.
    assert minutes([row("quickstart", 6000, cpu_seconds=300.0)])["quickstart"]["minutes"] == "5"
    assert minutes([row("quickstart", 6000, cpu_seconds=None)])["quickstart"]["minutes"] == "100"
    assert slow["german"]["measured"] == slow["chat"]["measured"] == "no"
    assert int(slow["german"]["minutes"]) > 2 * int(plain["german"]["minutes"])
