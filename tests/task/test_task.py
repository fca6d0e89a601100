"""Task: tokenized as TRL does it, hashed, saved, and its loss the trainers' loss."""

from __future__ import annotations

import json
import math

import pytest
import tiny
import torch
from datasets import Dataset
from families import make
from refusing import refuses
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from guided_ft.errors import GuidedError
from guided_ft.task.rows import read_lines
from guided_ft.task.task import Task
from guided_ft.task.tokens import IGNORE


def _settings(tmp_path):
    return {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "report_to": [], "max_length": 64}


def test_sft_tokens_are_trls(tmp_path):
    rows = tiny.sums(8)
    trainer = SFTTrainer(
        make("llama"),
        args=SFTConfig(**_settings(tmp_path)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
    )
    task = Task.from_dataset(rows, tiny.tokenizer())
    theirs = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    ours = next(task.batches())
    for name in ("input_ids", "labels", "attention_mask"):
        assert torch.equal(ours[name], theirs[name]), name


def test_sft_loss_is_the_mean_over_examples_of_the_models_loss():
    model, task = make("llama"), Task.from_dataset(tiny.sums(4), tiny.tokenizer(), batch_size=1)
    for batch in task.batches():
        ours = task.loss(task.quantity(model, batch))
        theirs = model(**batch).loss
        assert ours.shape == (1,)
        assert torch.allclose(ours[0], theirs, atol=1e-6)


def test_preference_tokens_are_trls(tmp_path):
    rows = tiny.pairs(8)
    model = make("llama")
    trainer = DPOTrainer(
        model,
        ref_model=make("llama"),
        args=DPOConfig(**_settings(tmp_path)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
    )
    theirs = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    ours = next(Task.from_dataset(rows, tiny.tokenizer()).batches())
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["labels"] != IGNORE, theirs["completion_mask"].bool())


def test_dpo_loss_starts_at_ln_2_and_pulls_apart():
    model, task = make("llama"), Task.from_dataset(tiny.pairs(4), tiny.tokenizer())
    quantity = task.quantity(model, next(task.batches()))
    assert quantity.shape == (4,)
    assert task.loss(quantity).tolist() == pytest.approx([math.log(2)] * 4)
    assert (task.loss(quantity + 1, quantity) < math.log(2)).all()


def test_a_model_that_is_its_own_reference_has_the_gradient_of_dpo():
    """-log sigmoid at 0: half of beta for each nat of the margin, downhill."""
    model, task = make("llama"), Task.from_dataset(tiny.pairs(4), tiny.tokenizer())
    quantity = task.quantity(model, next(task.batches())).detach().requires_grad_()
    task.loss(quantity).sum().backward()
    assert quantity.grad.tolist() == pytest.approx([-task.beta / 2] * 4)


def test_formats(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
    chat = [{"role": "user", "content": "1+1"}]
    answer = [{"role": "assistant", "content": "2"}]
    rows = {
        "text": ({"text": "abc"}, "abc<eos>"),
        "messages": ({"messages": chat + answer}, "u:1+1;a:2;"),
        "prompt and completion": ({"prompt": chat, "completion": answer}, "2;"),
        "ids": ({"input_ids": [5, 6, 7], "labels": [IGNORE, 6, 7]}, None),
    }
    for name, (row, scored) in rows.items():
        sequence = Task.from_dataset([row], tokenizer).examples[0][0]
        if scored is not None:
            text = tokenizer.decode([i for i in sequence.labels if i != IGNORE])
            assert text.replace(" ", "") == scored, name


def test_save_and_load_keep_everything(tmp_path):
    for rows in (tiny.sums(5), tiny.pairs(5)):
        task = Task.from_dataset(rows, tiny.tokenizer())
        task.save(tmp_path / "task.jsonl")
        again = Task.load(tmp_path / "task.jsonl")
        assert again.examples == task.examples
        assert again.hash == task.hash


def test_hash_depends_on_the_examples_only():
    rows = tiny.sums(5)
    a, b = (Task.from_dataset(rows, tiny.tokenizer(), batch_size=n) for n in (2, 5))
    assert a.hash == b.hash
    assert a.hash != Task.from_dataset(rows[:4], tiny.tokenizer()).hash
    assert (
        Task.from_dataset(tiny.pairs(3), tiny.tokenizer(), beta=0.5).hash
        != Task.from_dataset(tiny.pairs(3), tiny.tokenizer()).hash
    )


def test_text_files_are_read_line_by_line(tmp_path):
    (tmp_path / "text.txt").write_text("one line\n\nanother\n")
    assert len(Task.load(tmp_path / "text.txt", tiny.tokenizer())) == 2


def test_lines_end_where_files_say_so(tmp_path):
    inside = "a\u2028b\x85c\x0cd"
    (tmp_path / "text.txt").write_bytes(f"{inside}\r\ntwo\nthree".encode())
    assert read_lines(tmp_path / "text.txt") == [{"text": inside}, {"text": "two"}, {"text": "three"}]
    row = {"prompt": "a\u2028b\x85c", "completion": " d"}
    (tmp_path / "rows.jsonl").write_bytes(f"{json.dumps(row, ensure_ascii=False)}\r\n\r\n{{}}\n".encode())
    assert read_lines(tmp_path / "rows.jsonl") == [row]


IDS = {"input_ids": [0, 0, 5, 6, 7], "attention_mask": [0, 0, 1, 1, 1]}


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        (IDS, (5, 6, 7)),
        (IDS | {"labels": None, "rejected_ids": None, "completion_mask": None}, (5, 6, 7)),
        (IDS | {"labels": [IGNORE, IGNORE, IGNORE, 6, 7]}, (IGNORE, 6, 7)),
        (IDS | {"completion_mask": [0, 0, 0, 0, 1]}, (IGNORE, IGNORE, 7)),
        (IDS | {"labels": [IGNORE, IGNORE, 5, 6, IGNORE], "completion_mask": [0, 0, 0, 1, 1]}, (IGNORE, 6, IGNORE)),
    ],
)
def test_ready_rows_without_padding_and_with_masks(row, labels):
    (example,) = Task.from_dataset([row], None).examples
    assert [(s.ids, s.labels) for s in example] == [((5, 6, 7), labels)]


def test_ready_pairs_may_leave_their_labels_out():
    (example,) = Task.from_dataset([{"input_ids": [5, 6], "rejected_ids": [7, 8, 9]}], None).examples
    assert [s.labels for s in example] == [(5, 6), (7, 8, 9)]


def test_padded_pairs_keep_beside_each_other_what_belongs_together():
    row = IDS | {"corrupted_ids": [0, 0, 8, 6, 7], "wrong_labels": [IGNORE] * 4 + [9]}
    task = Task.from_dataset([row], None)
    assert (task.corrupted[0][0].ids, task.wrong[0]) == ((8, 6, 7), (IGNORE, IGNORE, 9))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_bad_batch_sizes_are_refused(batch_size):
    with pytest.raises(GuidedError, match="task 'task': batch_size: expected a number from 1 up"):
        Task.from_dataset(tiny.sums(2), tiny.tokenizer(), batch_size=batch_size)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "it has no examples"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}], "row 1: the answer is empty"),
        ([{"input_ids": [5, 6], "labels": [5, 6, 7]}], "row 0: labels has 3 numbers for 2 tokens (write one for each)"),
        ([{"input_ids": [5, 6], "attention_mask": [1]}], "row 0: attention_mask has 1 numbers for 2 tokens"),
        ([{"input_ids": [5, 6], "completion_mask": [1]}], "row 0: completion_mask has 1 numbers for 2 tokens"),
        ([{"question": "a"}], "row 0: no known format has the columns 'question' (nearest: question + answer, where"),
        (
            [{"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}],
            "row 0: prompt and answer must both",
        ),
        (tiny.sums(1) + tiny.pairs(1), "row 1: it is prompt + chosen + rejected (text), but the first"),
        ([{"prompt": "a" * 80, "completion": " b"}], "none of 1 rows has an answer within 64 tokens (raise max_length"),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(GuidedError) as error:
        Task.from_dataset(rows, tiny.tokenizer(), max_length=64)
    assert message in str(error.value)


def test_bad_files_are_named_with_the_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "fine"}\nnot json\n')
    with pytest.raises(GuidedError, match=r"rows.jsonl:2: not a JSON object"):
        Task.load(tmp_path / "rows.jsonl", tiny.tokenizer())
    with pytest.raises(GuidedError, match="cannot be read"):
        Task.load(tmp_path / "none.jsonl", tiny.tokenizer())


def test_rows_that_are_too_long_are_cut_or_left_out_as_in_the_trainer_and_that_is_told(tmp_path, caplog):
    rows = [{"prompt": "p" * n, "completion": " c" * m} for n, m in ((3, 1), (90, 1), (10, 40))]
    task = Task.from_dataset(rows, tiny.tokenizer(), max_length=64)
    assert (
        "task 'task': of 3 rows, 1 have no answer within 64 tokens and are left out, 1 are cut (max_length)"
        in caplog.text
    )
    trainer = SFTTrainer(
        make("llama"),
        args=SFTConfig(**_settings(tmp_path)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
    )
    theirs = [(tuple(row["input_ids"]), tuple(row["labels"])) for row in trainer.train_dataset]
    assert [(s.ids, s.labels) for (s,) in task.examples] == theirs
    caplog.clear()
    assert len(Task.from_dataset(rows, tiny.tokenizer(), max_length=None)) == 3
    assert not caplog.records


def test_what_a_tokenizer_or_a_template_refuses_names_the_row():
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}"
    rows = [
        {"messages": [{"role": role, "content": "a"}, {"role": "assistant", "content": "b"}]}
        for role in ("user", "tool")
    ]
    with refuses("task 'task': row 1: the chat template cannot take it (TemplateError: no tools)"):
        Task.from_dataset(rows, tokenizer)
    with pytest.raises(GuidedError, match=r"^task 'task': row 0: the tokenizer has no chat template for messages"):
        Task.from_dataset(rows, tiny.tokenizer())


def test_a_prompt_of_megabytes_is_left_out_or_beyond_the_window():
    """Attention over it would ask for terabytes."""
    rows = [*tiny.sums(2), {"prompt": "1" * 3_000_000, "completion": " 2"}]
    assert len(Task.from_dataset(rows, tiny.tokenizer())) == 2
    task = Task.from_dataset(rows, tiny.tokenizer(), max_length=None)
    with pytest.raises(GuidedError, match=r"^task 'task': example 2 has 3000003 tokens, but the model's window is"):
        task.check(make("llama"))
