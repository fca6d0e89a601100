"""What is handed over as a data set or a tokenizer is taken for what it is, or refused in one line."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
import tiny
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from families import make

from guided_ft import GuidedError, Task
from guided_ft.task.read_file import read_file

ROWS = tiny.sums(4)
EXPECTED = Task.from_dataset(ROWS, tiny.tokenizer()).hash


@pytest.mark.parametrize(
    "dataset",
    [
        Dataset.from_list(ROWS),
        DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(tiny.sums(2))}),
        DatasetDict({"all": Dataset.from_list(ROWS)}),
        {"train": ROWS},
        {key: [row[key] for row in ROWS] for key in ROWS[0]},
        iter(ROWS),
    ],
    ids=["dataset", "train of several splits", "the only split", "a split of rows", "columns", "iterator"],
)
def test_rows_come_in_many_shapes(dataset):
    assert Task.from_dataset(dataset, tiny.tokenizer()).hash == EXPECTED


def test_a_name_or_a_processor_serves_as_tokenizer(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    assert Task.from_dataset(ROWS, str(tmp_path)).hash == EXPECTED
    processor = SimpleNamespace(tokenizer=tiny.tokenizer(), image_processor=None)
    assert Task.from_dataset(ROWS, processor).hash == EXPECTED


def test_token_ids_need_no_tokenizer(tmp_path):
    Task.from_dataset(ROWS, tiny.tokenizer()).save(tmp_path / "ids.jsonl")
    assert Task.load(tmp_path / "ids.jsonl").hash == EXPECTED


SPLITS = DatasetDict({"one": Dataset.from_list(ROWS), "two": Dataset.from_list(ROWS)})


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (SPLITS, "dataset: it has the splits one, two (choose one: dataset['one'])"),
        ("rows.jsonl", "dataset: the text 'rows.jsonl' has no rows (Task.load reads a file)"),
        (None, "dataset: a NoneType has no rows (a list of rows will do)"),
        (ROWS[0], "dataset: a single row (write a list of rows: [row])"),
        ({}, "dataset: it is empty (give it rows)"),
        ({"prompt": ["1", "2"], "completion": ["3"]}, "dataset: its columns have 1 to 2 rows (make them alike)"),
        (["1+1"], "task 'task': row 0: expected a mapping of columns, got '1+1'"),
        ({"input_ids": [4, 5]}, "task 'task': row 0: input_ids: expected a list of token ids, got 4"),
    ],
)
def test_what_has_no_rows_is_one_line(dataset, message):
    with pytest.raises(GuidedError) as error:
        Task.from_dataset(dataset, tiny.tokenizer())
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (None, "task 'task': row 0: text needs a tokenizer (give one, or the name of its model)"),
        (make("llama"), "tokenizer: a LlamaForCausalLM is none (give a tokenizer, or the name of its model)"),
        (7, "tokenizer: a int is none (give a tokenizer, or the name of its model)"),
        ("no/such-model", "model: 'no/such-model' cannot be loaded"),
    ],
)
def test_what_is_no_tokenizer_is_one_line(tokenizer, message):
    with pytest.raises(GuidedError) as error:
        Task.from_dataset(ROWS, tokenizer)
    assert str(error.value).startswith(message)


TOPICS = Features({"text": Value("string"), "label": ClassLabel(names=["World", "Sports"])})
NEWS = Dataset.from_dict({"text": ["a match", "a vote", "a rumour"], "label": [1, 0, -1]}, features=TOPICS)


@pytest.mark.parametrize(
    "dataset",
    [NEWS.select([0, 1]), DatasetDict({"train": NEWS.select([0, 1])}), NEWS.select([0, 1]).to_iterable_dataset()],
    ids=["dataset", "dict", "streamed"],
)
def test_classes_are_learned_by_their_names(dataset):
    named = [{"text": "a match", "label": "Sports"}, {"text": "a vote", "label": "World"}]
    assert Task.from_dataset(dataset, tiny.tokenizer()).hash == Task.from_dataset(named, tiny.tokenizer()).hash


def test_a_parquet_file_keeps_the_names_of_its_classes(tmp_path):
    NEWS.to_parquet(tmp_path / "news.parquet")
    rows = [row for _, row in read_file(tmp_path / "news.parquet")]
    # datasets writes -1 where the class is not known.
    assert [row["label"] for row in rows] == ["Sports", "World", None]


@pytest.mark.parametrize("said", [b"no JSON", b"[]", b'{"info": {"features": {"label": {"names": 3}}}}'])
def test_a_parquet_file_without_names_keeps_its_numbers(said, tmp_path):
    table = pyarrow.table({"label": [1, 0]}).replace_schema_metadata({b"huggingface": said})
    pyarrow.parquet.write_table(table, tmp_path / "numbers.parquet")
    assert [row["label"] for _, row in read_file(tmp_path / "numbers.parquet")] == [1, 0]
