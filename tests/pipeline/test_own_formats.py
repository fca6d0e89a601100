"""Every format of rows from the file through a run: localized, trained and measured on the same tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from datasets import Dataset
from families import make
from own_rows import ROWS, TEMPLATE, chat
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from guided_ft.errors import GuidedError
from guided_ft.pipeline import measure, trainers, training
from guided_ft.pipeline.choices import likeliest
from guided_ft.pipeline.data import load_rows
from guided_ft.pipeline.lengths import fitting
from guided_ft.pipeline.pipeline import run
from guided_ft.pipeline.stages import Run
from guided_ft.recipe.recipe import Recipe
from guided_ft.task.answers import macro_f1, number_accuracy
from guided_ft.task.task import Task
from guided_ft.task.tokens import prompt_ids, read_row
from guided_ft.use.finished import Finished
from guided_ft.use.generate import generate
from guided_ft.use.prompts import read_questions


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    make("llama").save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def own(base, folder, name, *typed):
    path = folder / f"{name.replace(', ', '-')}.jsonl"
    path.write_text("".join(json.dumps(ROWS[name](i)) + "\n" for i in range(24)))
    small = [
        "first_layer=0",
        "budget=15%",
        "localize.examples=6",
        "retention_examples=2",
        "retention_tokens=8",
        *([] if any(word.startswith("epochs=") for word in typed) else ["steps=2"]),
    ]
    return Recipe.load(str(path), [f"model={base}", f"output={folder / 'run'}", "control=none", *small, *typed])


@pytest.mark.parametrize("name", ROWS)
def test_localized_trained_and_loaded_are_the_same_tokens(base, tmp_path, name):
    context = Run(own(base, tmp_path, name))
    rows = context.rows[0] + context.rows[1]
    assert (len(context.rows[0]), len(context.rows[1])) == (20, 4)
    localized = context.task(rows, 8).examples
    if len(localized[0]) == 1:
        trained = trainers._tokenized(rows, context.tokenizer, 256)
        assert [(tuple(r["input_ids"]), tuple(r["labels"])) for r in trained] == [
            (s.ids, s.labels) for (s,) in localized
        ]
    loaded = Task.load(context.recipe.data.path, context.tokenizer)
    assert sorted(map(repr, loaded.examples)) == sorted(map(repr, localized))


def _settings(folder):
    return {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": [], "max_length": 64}


def test_tools_and_template_arguments_are_rendered_as_trl_does(base, tmp_path):
    tokenizer = Run(own(base, tmp_path, "messages")).tokenizer
    # One shape of tools and arguments, as a table of columns can hold it.
    rows = [{**chat(2 * i), "tools": [{"name": "add"}]} for i in range(1, 7)]
    assert "[add]glad" in tokenizer.decode(read_row(rows[0], tokenizer)[0].ids).replace(" ", "")
    dpo = DPOTrainer(
        make("llama"),
        ref_model=make("llama"),
        args=DPOConfig(**_settings(tmp_path)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    theirs = [(r["prompt_ids"] + r["chosen_ids"], r["prompt_ids"] + r["rejected_ids"]) for r in dpo.train_dataset]
    assert theirs == [tuple(list(s.ids) for s in read_row(row, tokenizer)) for row in rows]
    sft_rows = [
        {"prompt": r["prompt"], "completion": r["chosen"], **{k: r[k] for k in ("tools", "chat_template_kwargs")}}
        for r in rows
    ]
    sft = SFTTrainer(
        make("llama"),
        args=SFTConfig(**_settings(tmp_path)),
        train_dataset=Dataset.from_list(sft_rows),
        processing_class=tokenizer,
    )
    assert [(r["input_ids"], r["labels"]) for r in sft.train_dataset] == [
        (list(s.ids), list(s.labels)) for row in sft_rows for s in read_row(row, tokenizer)
    ]


def test_evaluation_asks_with_the_rows_tools(base, tmp_path, monkeypatch):
    context, seen = Run(own(base, tmp_path, "messages")), []
    monkeypatch.setattr(
        "guided_ft.task.answers.answers", lambda model, tokenizer, prompts, **kw: seen.extend(prompts) or []
    )
    rows = context.rows[1]
    measure.Held(context, rows, None).found(len(rows))
    for prompt, row in zip(seen, rows, strict=True):
        found = prompt_ids(prompt, context.tokenizer)
        assert "[add]" in context.tokenizer.decode(found).replace(" ", "")
        assert read_row(row, context.tokenizer)[0].ids[: len(found) - 2] == tuple(found[:-2])


ANSWERS = {
    "plain": ("", "a:"),
    # As Qwen3 and GLM: thoughts, empty here, stand before each answer.
    "thoughts": ("<think></think>", "a:"),
    # As Nemotron and DeepSeek: what waits for its answer ends in thoughts that are open, and so was never trained.
    "open, closed": ("<think></think>", "a:<think>;"),
    "open": ("", "a:<think>;"),
}
"""What a template writes before an answer, and at the end of a prompt that waits for one."""


def template(kind):
    before, waiting = ANSWERS[kind]
    said = "{% for m in messages %}{{ m['role'][0] }}:{% if m['role'] == 'assistant' %}" + before + "{% endif %}"
    return said + "{{ m['content'] }}<eos>{% endfor %}{% if add_generation_prompt %}" + waiting + "{% endif %}"


@pytest.mark.parametrize("name", ["messages", "completion, messages", "preference, messages"])
@pytest.mark.parametrize("kind", ANSWERS)
def test_what_was_trained_is_right_whatever_the_template_writes_around_it(base, tmp_path, monkeypatch, kind, name):
    context = Run(own(base, tmp_path, name))
    context.tokenizer.chat_template = template(kind)
    rows = context.rows[1]
    trained = [read_row(row, context.tokenizer)[0].ids for row in rows]

    def greedy(model, ids, mask, *, max_new_tokens, **options):
        """A model that has learned its rows, and nothing else: asked otherwise, it says nothing."""
        asked = [tuple(row[real == 1].tolist()) for row, real in zip(ids, mask, strict=True)]
        found = [next((t[len(a) :] for t in trained if t[: len(a)] == a), ()) for a in asked]
        return [list(answer[:max_new_tokens]) for answer in found]

    monkeypatch.setattr("guided_ft.task.answers.greedy", greedy)
    model = make("llama")
    held = measure.Held(context, rows, model)
    assert measure.METRICS["exact_match"][1](held) == measure.METRICS["number_accuracy"][1](held) == 100
    contents = [(row.get("messages") or row.get("completion") or row["chosen"])[-1]["content"] for row in rows]
    if not ANSWERS[kind][0]:
        assert context.expected == contents
        assert context.answer_length == max(8, max(map(len, contents)) + 4)
    finished = SimpleNamespace(model=model, tokenizer=context.tokenizer, recipe=context.recipe)
    _, right = generate(finished, read_questions(context.recipe.data.path), max_new_tokens=32)
    # Of all rows the test ones were learned.
    assert right == {"trained_answer": pytest.approx(100 * len(rows) / 24)}


def test_what_is_rewarded_is_asked_as_chat_asks_and_the_bare_text_is_right(base, tmp_path, monkeypatch):
    context = Run(own(base, tmp_path, "completion, messages", "trainer=grpo", "reward=exact_match"))
    tokenizer, rows = context.tokenizer, context.rows[1]
    tokenizer.chat_template = template("open, closed")
    contents = [row["completion"][0]["content"] for row in rows]
    assert context.expected == contents
    waiting = {
        tuple(prompt_ids(row["prompt"], tokenizer)): row["prompt"][0]["content"] for row in [*context.rows[0], *rows]
    }

    def greedy(model, ids, mask, **options):
        asked = [waiting[tuple(row[real == 1].tolist())] for row, real in zip(ids, mask, strict=True)]
        return [tokenizer(text.removesuffix("?"))["input_ids"] for text in asked]

    monkeypatch.setattr("guided_ft.task.answers.greedy", greedy)
    model = make("llama")
    assert measure.METRICS["exact_match"][1](measure.Held(context, rows, model)) == 100
    finished = SimpleNamespace(model=model, tokenizer=tokenizer, recipe=context.recipe)
    _, right = generate(finished, read_questions(context.recipe.data.path), max_new_tokens=32)
    assert right == {"trained_answer": 100}


def test_what_the_trainer_would_render_otherwise_is_refused(base, tmp_path):
    context = Run(own(base, tmp_path, "preference, messages"))
    rows = context.rows[0]
    good = [
        {"prompt_ids": [], "chosen_ids": a.ids, "rejected_ids": b.ids}
        for a, b in (read_row(r, context.tokenizer) for r in rows)
    ]
    trainers._check_same_tokens(good, rows, context.tokenizer)
    good[3]["chosen_ids"] = good[3]["chosen_ids"][1:]
    with pytest.raises(GuidedError, match="training row 3: the trainer renders other tokens"):
        trainers._check_same_tokens(good, rows, context.tokenizer)


@pytest.mark.parametrize(("name", "talks"), [("messages", True), ("completion", False)])
def test_what_was_trained_and_no_more_is_talked_to_as_it_learned(base, tmp_path, name, talks):
    run(own(base, tmp_path, name, "retain=none"), until="train", quiet=True)
    assert not (tmp_path / "run" / "run.json").exists()
    assert Finished(tmp_path / "run").talks is talks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("text", {"loss"}),
        ("messages", {"exact_match"}),
        ("preference, messages", {"preference_accuracy", "exact_match"}),
        ("label", {"label_accuracy", "f1", "exact_match"}),
    ],
)
def test_a_run_measures_what_the_rows_are(base, tmp_path, name, measured):
    record = run(own(base, tmp_path, name), quiet=True)
    for when in ("before", "after"):
        assert set(record[when]) == {*measured, "examples"}
    assert record["after"]["examples"] == 4
    assert len(record["samples"]) == (0 if name == "text" else 4)


def test_epochs_are_counted_as_the_trainers_do(base, tmp_path):
    for typed, steps in (("epochs=2", 10), ("epochs=0.5", 3), ("steps=7", 7)):
        recipe = own(base, tmp_path, "completion", "train.batch_size=4", typed)
        assert training.num_steps(recipe, 20) == steps
    recipe = own(base, tmp_path, "completion", "train.batch_size=3", "accumulate=4", "epochs=3")
    args = SFTConfig(
        **_settings(tmp_path), per_device_train_batch_size=3, gradient_accumulation_steps=4, num_train_epochs=3
    )
    trainer = SFTTrainer(
        make("llama"), args=args, train_dataset=Dataset.from_list(tiny.sums(20)), processing_class=tiny.tokenizer()
    )
    theirs = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    assert training.num_steps(recipe, 20) in theirs


def test_the_last_answer_alone_is_learned_when_asked(base, tmp_path):
    whole = Run(own(base, tmp_path, "messages"))
    apart = Run(own(base, tmp_path, "messages", "train.completion_only_loss=true"))
    (a,), (b,) = (context.task(context.rows[0], 4).examples[0] for context in (whole, apart))
    assert a.ids == b.ids
    assert a.labels == a.ids
    assert b.labels[-3:] == b.ids[-3:]
    assert b.labels[:4] == (-100,) * 4


def test_rows_without_room_are_left_out_and_told(base, tmp_path, caplog):
    tokenizer = tiny.tokenizer()
    rows = [{"prompt": "p" * n, "completion": " c" * m} for n, m in ((3, 1), (30, 1), (10, 8), (3, 30))]
    kept = fitting(rows, tokenizer, 24, "train")
    assert kept == [rows[0], rows[2], rows[3]]
    assert "data: of 4 train rows, 1 have no answer within 24 tokens and are left out, 2 are cut" in caplog.text
    with pytest.raises(GuidedError, match=r"none of 1 test rows has an answer within 24 tokens \(raise train.max_l"):
        fitting(rows[1:2], tokenizer, 24, "test")


def test_letters_of_many_bytes_do_not_slip_past_the_length(caplog):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rows = [{"prompt": letter * 150, "completion": " c"} for letter in "aéက🪐"]
    kept = fitting(rows, PreTrainedTokenizerFast(tokenizer_object=backend), 400, "train")
    assert kept == rows[:2]
    assert "of 4 train rows, 2 have no answer within 400 tokens and are left out" in caplog.text


@pytest.mark.parametrize("odd", ["x", {"a": 1}, 10**40])
def test_messages_whose_keys_are_of_mixed_types_are_told_first(odd, base, tmp_path, monkeypatch):
    """DPO makes a table of them."""
    recipe = own(base, tmp_path, "preference, messages")
    rows = [ROWS["preference, messages"](i) for i in range(24)]
    for i, row in enumerate(rows):
        row["prompt"] = [row["prompt"][0] | {"id": odd if i == 9 else i}]
    Path(recipe.data.path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("guided_ft.pipeline.stages.load_model", lambda *args, **kw: pytest.fail("it was loaded"))
    with pytest.raises(
        GuidedError, match=r"^data: the rows make no table \(.*; give all messages the same keys and ty"
    ):
        run(recipe, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_template_that_refuses_a_row_is_told_first_with_the_row(base, tmp_path):
    """It is a row that the map would not have looked at, and only the training stumbled over."""
    context = Run(own(base, tmp_path, "messages", "train.max_length=2048"))
    context.tokenizer.chat_template = TEMPLATE + "{% if messages[0]['content'] == '17?' %}{{ 1 / 0 }}{% endif %}"
    with pytest.raises(GuidedError) as caught:
        context.rows  # noqa: B018
    said = r"data: (train|test) row \d+ \(.*17\?.*\): the chat template cannot take it \(ZeroDivisionError: .*\)"
    assert re.fullmatch(said, str(caught.value))


@pytest.mark.slow
def test_a_run_counts_the_rows_that_it_trained_on(base, tmp_path):
    recipe = own(base, tmp_path, "completion", "train.max_length=24", "data.train=20", "data.test=2")
    rows = [{"prompt": f"{'x' * (30 if i % 4 else 1)}{i} =", "completion": f" {i}"} for i in range(24)]
    Path(recipe.data.path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = run(recipe, quiet=True)
    trained = [row for row in load_rows(recipe.data, recipe.seed)[0] if "x" * 30 not in row["prompt"]]
    assert record["task"]["train"] == len(trained) < 8


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        ("text", "exact_match", "exact_match needs rows with a prompt (write auto, loss)"),
        ("completion", "f1", "f1 needs rows with at most 20 different answers (write auto, exact_match or"),
        ("completion", "preference_accuracy", "preference_accuracy needs rows with chosen and rejected"),
    ],
)
def test_a_metric_that_the_rows_do_not_have_is_refused(base, tmp_path, name, metric, message):
    context = Run(own(base, tmp_path, name, f"metric={metric}"))
    with pytest.raises(GuidedError) as caught:
        measure.check_metrics(context, context.rows[1])
    assert message in str(caught.value)


def test_the_metrics_are_right():
    assert number_accuracy(["so 1,200 in all", "no", "3 or -4"], ["#### 1200", "5", "-4"]) == pytest.approx(200 / 3)
    # By hand: a: 2 of 3 found, 2 there; b: 1 of 1 found, 2 there.
    assert macro_f1(["a", "a", "a", "b"], ["a", "a", "b", "b"]) == pytest.approx(100 * (4 / 5 + 2 / 3) / 2)
    model, tokenizer = make("llama"), tiny.tokenizer()
    tasks = [
        Task.from_dataset([{"prompt": p, "completion": c} for p in ("1", "22")], tokenizer) for c in (" few", " many")
    ]
    with torch.no_grad():
        losses = [
            [float(task.quantity(model, batch)[i]) for batch in task.batches() for i in range(2)] for task in tasks
        ]
    assert likeliest(model, tasks) == [int(b < a) for a, b in zip(*losses, strict=True)]
