"""A callback takes a raw data set for its task, and says in one line what it made of it."""

from __future__ import annotations

import re

import pytest
import tiny
from datasets import Dataset, DatasetDict
from families import make
from trainers import base, plain, ready, sft
from trl import SFTConfig

from guided_ft import GuidedCallback, GuidedError, Task
from guided_ft.callback.asked import as_task
from guided_ft.scorers.settings import LocalizeOptions

ROWS = tiny.sums(LocalizeOptions.examples + 8)


def told(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("guided_ft: ")]


def test_a_raw_data_set_is_read_with_the_trainers_tokenizer(tmp_path, caplog):
    callbacks = [
        GuidedCallback(task=task, retain=retain, budget="20%", seed=3, kinds=("head", "neuron"), mode="slice")
        for task, retain in (
            (
                DatasetDict({"train": Dataset.from_list(ROWS)}),
                Dataset.from_list(tiny.pairs(4)).select_columns("prompt").rename_column("prompt", "text"),
            ),
            (
                Task.from_dataset(ROWS[: LocalizeOptions.examples], tiny.tokenizer(), max_length=32, batch_size=4),
                Task.from_dataset([{"text": row["prompt"]} for row in tiny.pairs(4)], tiny.tokenizer(), batch_size=4),
            ),
        )
    ]
    for i, callback in enumerate(callbacks):
        sft(base(tmp_path), tmp_path / str(i), [callback])
    assert callbacks[0].plan.selection == callbacks[1].plan.selection
    assert callbacks[0].scores.meta["task"]["hash"] == callbacks[1].scores.meta["task"]["hash"]
    [line, other] = told(caplog)
    assert line[: line.index(", ", line.index("("))] == "guided_ft: scored 2 layers, 8 heads, 96 neurons (attribution"
    assert re.search(r"passes, \d+ s\); chose \d+ heads?, \d+ neurons, in layers 0 to 1: [\d,]+ of", line)
    assert line.endswith(f"; trains {callbacks[0].plan.num_parameters:,} in slice mode")
    assert other.split("chose")[1] == line.split("chose")[1]


def test_a_ready_plan_is_told_too_and_only_where_the_trainer_logs(tmp_path, caplog, monkeypatch):
    plan = ready(make("llama"), "slice")
    trainer = sft(base(tmp_path), tmp_path / "run", [GuidedCallback(plan)])
    chosen = plan.selection
    assert told(caplog) == [
        f"guided_ft: plan of 3 heads, 2 neurons, in layers 0 to 1: {chosen.num_parameters:,} of "
        f"{chosen.anatomy.num_parameters:,} parameters ({chosen.fraction:.3%}); trains {plan.num_parameters:,} in slice mode"
    ]
    quiet = GuidedCallback(plan)
    quiet.tells = False
    sft(base(tmp_path), tmp_path / "quiet", [quiet])
    monkeypatch.setattr(type(trainer.args), "should_log", False)
    sft(base(tmp_path), tmp_path / "other", [GuidedCallback(plan)])
    assert len(told(caplog)) == 1


def test_what_is_localized_has_the_labels_that_are_trained(tmp_path, caplog):
    callback = GuidedCallback(task=ROWS, mode="slice", budget="20%")
    trainer = sft(base(tmp_path), tmp_path / "run", [callback], completion_only_loss=False)
    theirs = Task.from_trainer(trainer, 4).examples
    assert [text.labels[1:] for (text,) in callback._request.task.take(4).examples] == [
        text.labels[1:] for (text,) in theirs
    ]
    assert not [r for r in caplog.records if "assistant_only_loss" in r.getMessage()]


def test_text_under_a_name_of_ones_own_is_read_as_the_trainer_reads_it(tmp_path):
    rows = [{"content": row["prompt"] + row["completion"]} for row in ROWS]
    callbacks = [GuidedCallback(task=task, mode="slice", budget="20%") for task in (rows, as_text(rows))]
    for i, callback in enumerate(callbacks):
        sft(base(tmp_path), tmp_path / str(i), [callback], dataset_text_field="content")
    assert callbacks[0]._request.task.examples == callbacks[1]._request.task.examples


def as_text(rows):
    return [{"text": row["content"]} for row in rows]


def test_labels_that_a_map_cannot_have_are_told(tmp_path, caplog):
    args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, assistant_only_loss=True)
    task = as_task(ROWS, "task", args, tiny.tokenizer())
    assert task.hash == as_task(ROWS, "task", SFTConfig(str(tmp_path), use_cpu=True, bf16=False), tiny.tokenizer()).hash
    assert sum("assistant_only_loss" in r.getMessage() for r in caplog.records) == 1


def test_what_nothing_is_said_about_trains_along_directions(tmp_path, caplog):
    callback = GuidedCallback(task=ROWS)
    trainer = sft(base(tmp_path), tmp_path / "run", [callback])
    assert callback.plan.mode == "subspace"
    assert 0.09 < callback.plan.selection.fraction <= 0.1
    [line] = told(caplog)
    assert re.match(
        r"guided_ft: scored 384 directions \(directions, \d+ passes, \d+ s\); chose [\d,]+ directions", line
    )
    assert trainer.model.peft_config["default"].peft_type == "LORA"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "gradient"},
            "method: mode subspace takes directions, which no scorer of units finds (write mode slice too)",
        ),
        ({"kinds": ("head",)}, "kinds: mode subspace takes directions, which no scorer of units finds"),
        ({"options": {"steps": 8}}, "options: mode subspace takes directions, which no scorer of units finds"),
        ({"strategy": "bottom"}, "strategy: mode subspace has no bottom (write top, even, random"),
        ({"strategy": "even", "mode": "slice"}, "strategy: mode slice has no even (write top, bottom"),
    ],
)
def test_what_a_mode_has_no_use_for_is_refused(options, message):
    with pytest.raises(GuidedError) as error:
        GuidedCallback(task=ROWS, **options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"task": "rows.jsonl"},
            "task: neither a Task nor a data set: the text 'rows.jsonl' has no rows (Task.load re",
        ),
        ({"task": 5}, "task: neither a Task nor a data set: a int has no rows (a list of rows will do)"),
        ({"task": ROWS, "retain": 5}, "retain: neither a Task nor a data set: a int has no rows"),
        ({"plan": ROWS}, "plan: a list is no Plan (write task=..., or Plan(selection))"),
    ],
)
def test_what_is_no_task_is_refused_when_the_callback_is_made(options, message):
    with pytest.raises(GuidedError) as error:
        GuidedCallback(**options)
    assert str(error.value).startswith(message)


def test_rows_of_text_need_a_trainer_with_a_tokenizer(tmp_path):
    with pytest.raises(GuidedError, match=r"task: this trainer has no tokenizer for the rows \(pass processing_class="):
        plain(make("llama"), tmp_path, [GuidedCallback(task=ROWS)])
