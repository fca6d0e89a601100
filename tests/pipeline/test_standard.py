"""Standard evaluations: what lm-eval measures of a run, and what is said where it cannot."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import tiny
import tiny_run
import torch
from families import make

from guided_ft.errors import GuidedError
from guided_ft.pipeline import run, standard
from guided_ft.pipeline.fingerprint import stage_keys
from guided_ft.pipeline.preflight import preflight
from guided_ft.recipe.recipe import Recipe

TASK = """\
task: tiny_sums
dataset_path: json
dataset_kwargs: {data_files: {test: docs.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
target_delimiter: " "
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""

DOCS = [{"question": f"{i}+{i} =", "choices": [str(2 * i), str(2 * i + 1), "9"], "answer": i % 3} for i in range(1, 13)]

harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    (tmp_path / "task.yaml").write_text(TASK)
    return tmp_path / "task.yaml"


def asks(task: Path, **more) -> Recipe:
    return Recipe.from_dict({"data": {"name": "chain_sum"}, "evaluate": {"lm_eval": str(task), **more}})


def likeliest(model, doc: dict) -> int:
    """The choice whose tokens are likeliest after the question."""
    tokenizer = tiny.tokenizer()
    sums = []
    for choice in doc["choices"]:
        prompt = tokenizer(doc["question"])["input_ids"]
        answer = tokenizer(" " + choice)["input_ids"]
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        sums.append(sum(float(log_p[len(prompt) + i - 1, token]) for i, token in enumerate(answer)))
    return sums.index(max(sums))


@harness
@pytest.mark.slow
def test_it_measures_what_the_likeliest_choices_are(task: Path, monkeypatch) -> None:
    monkeypatch.chdir("/")  # the data lies beside the task
    model = make("llama").eval()
    right = [likeliest(model, doc) == doc["answer"] for doc in DOCS]
    assert 0 < sum(right) < len(right)
    found = standard.evaluate(model, tiny.tokenizer(), asks(task))
    assert found == {"tiny_sums_accuracy": pytest.approx(100 * sum(right) / len(right))}
    some = standard.evaluate(model, tiny.tokenizer(), asks(task, lm_eval_limit=5))
    assert some == {"tiny_sums_accuracy": pytest.approx(100 * sum(right[:5]) / 5)}


@harness
@pytest.mark.slow
def test_a_run_tells_it_before_and_after_and_of_the_control(task: Path) -> None:
    record = run(tiny_run.recipe(task.parent, evaluate={"lm_eval": str(task)}), quiet=True)
    for scores in (record["before"], record["after"], record["control"]["random"]["after"]):
        assert 0 <= scores["tiny_sums_accuracy"] <= 100
    assert next(iter(record["after"])) == "exact_match", "the verdict goes by the task's own metric"
    assert "tiny sums accuracy" in (task.parent / "run" / "report.html").read_text()
    assert "lm-eval" in record["versions"]


@harness
def test_what_lm_eval_refuses_is_one_line(task: Path) -> None:
    task.write_text(TASK.replace("multiple_choice", "telepathy"))
    with pytest.raises(GuidedError, match=r"^evaluate\.lm_eval: lm-eval refuses it \(.+\)$") as caught:
        standard.evaluate(make("llama"), tiny.tokenizer(), asks(task))
    assert "\n" not in str(caught.value)


def test_without_lm_eval_the_mend_is_named(task: Path, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else find(name))
    with pytest.raises(GuidedError) as caught:
        preflight(asks(task))
    assert str(caught.value) == (
        "recipe: evaluate.lm_eval: lm-eval is not installed (run: pip install 'guided-ft[eval]')"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TASK.replace("task: tiny_sums\n", ""), "no name of a task (write task: a_name)"),
        (TASK.replace("docs.jsonl", "gone.jsonl"), "gone.jsonl': no such file"),
        (TASK + "process_docs: !function mine.docs\n", "line 11: the tag '!function' is not read"),
    ],
)
def test_a_file_that_is_no_task_is_refused_before_anything_is_loaded(task: Path, monkeypatch, text, said) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    task.write_text(text)
    with pytest.raises(GuidedError) as caught:
        preflight(asks(task))
    assert said in str(caught.value)
    assert str(caught.value).startswith("recipe: evaluate.lm_eval: ")


def test_a_change_of_the_tasks_data_is_seen(task: Path) -> None:
    before = stage_keys(asks(task))
    (task.parent / "docs.jsonl").write_text(json.dumps(DOCS[0]) + "\n")
    after = stage_keys(asks(task))
    assert {stage for stage in before if before[stage] != after[stage]} == {"before", "evaluate", "control"}
