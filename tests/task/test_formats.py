"""Every format of rows, in every kind of file, comes out in TRL's words; what fits none is refused by its number."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from guided_ft.errors import GuidedError
from guided_ft.task import formats
from guided_ft.task.formats import FORMATS, recognise
from guided_ft.task.read_file import ENDINGS, read_file
from guided_ft.task.reader import Reader, answered, asked, read_all

ASKED, ANSWER, WORSE = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"), ("assistant", "b")))
TEXT = {"prompt": "q", "completion": " a"}

SAMPLES = {
    "completion": ({"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "a"}),
    "completion, messages": ({"prompt": [ASKED], "completion": [ANSWER]}, {"prompt": [ASKED], "completion": [ANSWER]}),
    "preference": ({"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": "b"}),
    "implicit": ({"chosen": "q a", "rejected": "q b"}, {"prompt": "q", "chosen": " a", "rejected": " b"}),
    "implicit, messages": (
        {"chosen": [ASKED, ANSWER], "rejected": [ASKED, WORSE]},
        {"prompt": [ASKED], "chosen": [ANSWER], "rejected": [WORSE]},
    ),
    "messages": ({"messages": [ASKED, ANSWER]}, {"messages": [ASKED, ANSWER]}),
    "messages, OpenAI": (
        {"messages": [ASKED, {**ANSWER, "weight": 1}], "tools": [{"type": "function"}], "parallel_tool_calls": False},
        {"messages": [ASKED, {**ANSWER, "weight": 1}], "tools": [{"type": "function"}]},
    ),
    "messages, parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, ANSWER]},
        {"messages": [ASKED, ANSWER]},
    ),
    "text": ({"text": "q a"}, {"text": "q a"}),
    "ids": ({"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [5, 6], "labels": [-100, 6]}),
    "alpaca": ({"instruction": "q", "input": "", "output": "a"}, TEXT),
    "alpaca, input": ({"instruction": "q", "input": "x", "output": "a"}, {"prompt": "q\n\nx", "completion": " a"}),
    "dolly": (
        {"instruction": "q", "context": "x", "response": "a", "category": "open_qa"},
        {"prompt": "q\n\nx", "completion": " a"},
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
        {"messages": [{"role": "system", "content": "s"}, ASKED, ANSWER]},
    ),
    "sharegpt, roles": ({"conversations": [ASKED, ANSWER]}, {"messages": [ASKED, ANSWER]}),
    "question": ({"question": "q", "answer": "a"}, TEXT),
    "question, context": ({"question": "q", "context": "x", "answer": "a"}, {"prompt": "x\n\nq", "completion": " a"}),
    "input": ({"input": "q", "output": "a"}, TEXT),
    "response": ({"prompt": "q", "response": "a"}, TEXT),
    "label": ({"text": "q", "label": "a"}, {"prompt": "q\nLabel:", "completion": " a"}),
    "label, number": ({"text": "q", "label": 0}, {"prompt": "q\nLabel:", "completion": " 0"}),
}


def test_the_samples_are_of_every_format():
    assert {name.partition(",")[0] for name in SAMPLES} == set(FORMATS)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_row_of_each_format_becomes_trls(name):
    row, trl = SAMPLES[name]
    assert recognise(row) is FORMATS[name.partition(",")[0]]
    reader = Reader()
    assert reader(row) == trl
    assert reader(row | {"some_id": 7, "completions": None}) == trl
    assert reader.dropped - {"category"} == {"some_id"}
    # What comes out is read again as it is, by Task.
    assert Reader()(trl) == trl


def test_what_is_asked_and_answered():
    found = {name: (asked(Reader()(row)), answered(Reader()(row))) for name, (row, _) in SAMPLES.items()}
    assert found["alpaca"] == found["question"] == ("q", " a")
    assert found["messages"] == found["sharegpt, roles"] == ([ASKED], "a")
    assert found["implicit, messages"] == ([ASKED], "a")
    assert found["text"] == found["ids"] == (None, "")


def test_rows_that_hold_several():
    instances = [{"input": "", "output": "a"}, {"input": "x", "output": "b"}]
    several = {"id": "seed_task_0", "instruction": "q", "instances": instances, "is_classification": False}
    assert read_all([("f:1", several)], Reader(), "f") == [TEXT, {"prompt": "q\n\nx", "completion": " b"}]

    def reply(text, rank=None, *replies, role="assistant"):
        return {"text": text, "role": role, "rank": rank, "replies": [*replies]}

    later = reply("r", None, reply("d", 1), reply("c", 0), role="prompter")
    tree = {"message_tree_id": "t", "prompt": reply("q", None, reply("b", 1, later), reply("a", 0), role="prompter")}
    first = {"prompt": [ASKED], "chosen": [ANSWER], "rejected": [WORSE]}
    second = [{"role": "assistant", "content": c} for c in "cd"]
    talk = [ASKED, WORSE, {"role": "user", "content": "r"}]
    assert read_all([("f:1", tree)], Reader(), "f") == [
        first,
        {"prompt": talk, "chosen": second[:1], "rejected": second[1:]},
    ]
    with pytest.raises(GuidedError, match=r"^f:1: expected a mapping of columns, got '5'"):
        read_all([("f:1", {"instruction": "q", "instances": [5]})], Reader(), "f")


# -- files ------------------------------------------------------------------------------------------------------------
ROWS = [{"question": f'q{i}, "quoted"\nand more', "answer": f"ä{i}"} for i in range(3)]
READ = [{"prompt": row["question"], "completion": f" {row['answer']}"} for row in ROWS]


def written(folder, ending, rows):
    path = folder / f"rows{ending}"
    if ending == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif ending in (".csv", ".tsv"):
        with open(path, "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if ending == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif ending == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_bytes(b"\xef\xbb\xbf" + "".join(json.dumps(row) + "\r\n" for row in rows).encode())
    return path


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending != ".txt"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, ending):
    path = written(tmp_path, ending, ROWS)
    assert read_all(read_file(path), Reader(), "rows") == READ


def test_lines_of_text_are_texts(tmp_path):
    (tmp_path / "rows.txt").write_text("\ufeffone\n\n two \n")
    assert read_all(read_file(tmp_path / "rows.txt"), Reader(), "rows") == [{"text": "one"}, {"text": " two "}]


def test_other_ways_to_write_json(tmp_path):
    (tmp_path / "named.json").write_text(json.dumps({"version": 1, "data": ROWS, "tags": ["a"]}))
    (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "one.json").write_text(json.dumps(ROWS[0], indent=2))
    assert read_all(read_file(tmp_path / "named.json"), Reader(), "rows") == READ
    assert read_all(read_file(tmp_path / "lines.json"), Reader(), "rows") == READ
    assert read_all(read_file(tmp_path / "one.json"), Reader(), "rows") == READ[:1]


TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"messages": [ASKED, ANSWER]}, [{"messages": [ASKED, ANSWER]}]),
        ({"messages": [ASKED, ANSWER], "tools": TOOLS}, [{"messages": [ASKED, ANSWER], "tools": TOOLS}]),
        ({"prompt": "q", "completion": "a", "tools": TOOLS}, [{"prompt": "q", "completion": "a", "tools": TOOLS}]),
        ({"prompt": [ASKED], "completion": [ANSWER]}, [{"prompt": [ASKED], "completion": [ANSWER]}]),
        ({"conversations": [ASKED, ANSWER]}, [{"messages": [ASKED, ANSWER]}]),
        # Lists of rows, whatever they are called.
        ({"messages": [{"text": "a"}, {"text": "b"}]}, [{"text": "a"}, {"text": "b"}]),
        ({"text": "what these are", "data": ROWS}, READ),
    ],
)
def test_a_json_object_is_a_row_if_its_lists_are_columns_of_one(tmp_path, written, read):
    (tmp_path / "one.json").write_text(json.dumps(written))
    assert read_all(read_file(tmp_path / "one.json"), Reader(), "rows") == read


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[1]", "a.json row 0: not an object"),
        ("a.json", b"5", "a.json: not a list of objects"),
        ("a.json", b'[{"text": "a"},\n  }]', "a.json:2: not valid JSON"),
        ("a.json", b"[" * 100_000, "a.json: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"n": ' + b"1" * 5000 + b"}", "a.jsonl:2: not a JSON object"),
        ("a.csv", b"text,text\na,b\n", "a.csv:1: a column has no name, or another one's"),
        ("a.csv", b"prompt,completion\na,b\nc\n", "a.csv:3: not as many cells as columns, 2"),
        ("a.csv", b"prompt,completion\na,b,c\n", "a.csv:2: not as many cells as columns, 2"),
        ("a.csv", b'prompt,completion\n"a"b,c\n', "a.csv:2: not valid CSV"),
        ("a.csv", b"text\n\xff\n", "a.csv: not UTF-8 text"),
        ("a.parquet", b"PAR1 nothing", "a.parquet: "),
        ("a.docx", b"", "a.docx: file ending: unknown value '.docx'"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(GuidedError) as caught:
        list(read_file(name))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_missing_file_is_one_line(ending):
    with pytest.raises(GuidedError, match=rf"^nowhere{ending}: cannot be read \("):
        list(read_file(f"nowhere{ending}"))


def test_a_cell_may_be_long(tmp_path):
    long = "x" * 3_000_000
    path = written(tmp_path, ".csv", [{"prompt": long, "completion": "a"}])
    assert [row["prompt"] for _, row in read_file(path)] == [long]


# -- columns of one's own ---------------------------------------------------------------------------------------------
OWN = {"article": "x", "question": "q", "options": ["one", "two"], "answer": "a", "id": 3}


def test_columns_are_mapped_and_prompts_put_together():
    columns = {"prompt": "question", "chosen": "answer", "rejected": "article"}
    reader = Reader(columns=columns)
    assert reader(OWN) == {"prompt": "q", "chosen": "a", "rejected": "x"}
    assert reader.dropped == {"options", "id"}
    reader = Reader(prompt="{article} {question}\n{options}\n{id}{}")
    assert reader(OWN) == {"prompt": "x q\none\ntwo\n3{}", "completion": " a"}
    assert reader.dropped == set()
    sheet = {"Subject": "s", "Customer message": "m", "e-mail": "x@y", "Anything else?": "no", "answer": "a"}
    reader = Reader(prompt='{Subject}: {Customer message} ({e-mail}) {Anything else?} {"as": "JSON"} {...}')
    assert reader(sheet) == {"prompt": 's: m (x@y) no {"as": "JSON"} {...}', "completion": " a"}
    assert reader.dropped == set()
    kto = {"prompt": "q", "completion": " a", "label": 1}
    assert Reader(columns={"text": "prompt", "label": "label"})(kto) == {"prompt": "q\nLabel:", "completion": " 1"}
    named = Reader("text")
    assert named({"text": "t", "label": 1, "context": "c"}) == {"text": "t"}
    assert named.dropped == {"label", "context"}


# -- refusals ---------------------------------------------------------------------------------------------------------
CHAT = {"prompt": [ASKED], "completion": [ANSWER]}


def spoken(**message):
    return {"messages": [ASKED, {"role": "assistant", **message}]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (OWN, "question + answer would be read without 'article', 'options' (write that into the prompt;"),
        ({**TEXT, "system": "s"}, "prompt + completion would be read without 'system'"),
        ({**TEXT, "history": [["a", "b"]]}, "prompt + completion would be read without 'history'"),
        ({"text": "a", "labels": [1]}, "text would be read without 'labels'"),
        ({"messages": [ASKED, ANSWER], "images": ["a.png"]}, "messages would be read without 'images'"),
        ({**TEXT, "label": False}, "prompt + completion + label is unpaired preference (KTO)"),
        ({**TEXT, "input_ids": [1]}, "two formats at once, prompt + completion and input_ids (say which: format comp"),
        ({**TEXT, "chosen": "a", "rejected": "b"}, "two formats at once, prompt + completion and prompt + chosen + "),
        ({**TEXT, "question": "a", "answer": "b"}, "two formats at once, prompt + completion and question + answer"),
        ({"messages": [ASKED, ANSWER], "text": "a"}, "two formats at once, messages and text"),
        (
            {"promt": "q", "completion": "a"},
            "no known format has the columns 'completion', 'promt' (nearest: prompt + ",
        ),
        ({}, "no known format has the columns nothing (nearest:"),
        ({"instruction": "q", "input": "x"}, "(nearest: instruction + output, where 'output' is missing;"),
        (5, "expected a mapping of columns, got '5'"),
        ("train", "expected a mapping of columns, got 'train' (of a DatasetDict, give one split)"),
        ({"text": 5}, "text: expected text, got 5"),
        ({"text": 10**400}, "text: expected text, got a huge number"),
        ({"text": ""}, "text: it is empty"),
        ({"prompt": "", "completion": "a"}, "prompt: it is empty"),
        ({"prompt": "q", "completion": ""}, "the answer is empty"),
        ({"prompt": [ASKED], "completion": []}, "the answer is empty"),
        ({"prompt": "q", "completion": ["a"]}, "completion: message 0 is text (write it with role and content)"),
        ({"text": "half \ud83d"}, "text: half a character at 5 (a lone surrogate"),
        ({"messages": [{"role": "user", "content": "\udc00"}]}, "messages: message 0: half a character at 0"),
        ({"messages": []}, "messages: no message in it"),
        ({"messages": "q"}, "messages: expected a list of messages, got text"),
        ({"messages": [{"content": "q"}]}, "messages: message 0 has no role"),
        (spoken(), "messages: message 1 (assistant) has no content"),
        (spoken(content=7), "messages: message 1 (assistant) has as content 7"),
        (spoken(content=[{"type": "image"}]), "messages: message 1 has a part that is no text (image"),
        (spoken(content="a", weight=0), "messages: message 1 has weight 0"),
        ({"conversations": [{"from": "nobody", "value": "q"}]}, "conversations: turn 0 is from 'nobody'"),
        ({"conversations": {"from": "human"}}, "conversations: expected a list of turns, got a mapping"),
        ({"chosen": "a", "rejected": "b"}, "chosen and rejected do not begin alike"),
        ({"chosen": "q a", "rejected": "q a"}, "chosen and rejected do not differ"),
        ({"chosen": [ASKED], "rejected": "q"}, "chosen and rejected must both be text or both be"),
        ({**TEXT, "wrong": [ANSWER]}, "wrong: it must be text, or a list of messages, as the prompt is"),
        ({"text": "a", "label": {"is": 1}}, "label: expected text, got a mapping"),
    ],
)
def test_what_is_no_row_is_refused(row, message):
    rows = [("file:7", row)]
    with pytest.raises(GuidedError) as caught:
        read_all(rows, Reader(), "file")
    assert str(caught.value).startswith("file:7: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (Reader("alpaca"), "format alpaca needs instruction + output, and 'instruction', 'output' is missing"),
        (Reader("alpca"), "format: unknown value 'alpca' (did you mean 'alpaca'?)"),
        (Reader(columns={"prompt": "q"}), "no column 'q', which columns maps (there: 'prompt', 'completion')"),
        (Reader(prompt="{context}"), "no column 'context', which the prompt names (there: 'prompt', 'completion')"),
        (Reader(prompt="{The context}"), "no column 'The context', which the prompt names (there: 'prompt', 'compl"),
        (Reader(prompt="{the-prompt}"), "no column 'the-prompt', which the prompt names (did you mean 'prompt'?)"),
    ],
)
def test_wrong_settings_name_the_column(reader, message):
    with pytest.raises(GuidedError) as caught:
        reader(TEXT)
    assert str(caught.value) == message or str(caught.value).startswith(message)


@pytest.mark.parametrize("name", ["context", "Really?"])
def test_a_prompt_is_never_put_together_without_an_empty_column(name):
    with pytest.raises(GuidedError, match=rf"^no column '{re.escape(name)}', which the prompt names \(there: 'prompt'"):
        Reader(prompt=f"{{{name}}} {{prompt}}")({**TEXT, name: None})


def test_columns_that_are_left_out_are_told_once(caplog):
    read_all([("a", {"text": "x", "id": 1}), ("b", {"text": "y", "id": 2, "source": "z"})], Reader(), "rows.jsonl")
    assert [record.getMessage() for record in caplog.records] == [
        "rows.jsonl: columns that are not read: 'id', 'source'"
    ]


def test_the_table_of_formats_in_the_docs_is_the_one_that_is_read():
    page = (Path(formats.__file__).parent / "README.md").read_text(encoding="utf-8")
    told = {
        row[0].strip("` "): row[1].strip()
        for row in (line.split("|")[1:] for line in page.splitlines())
        if len(row) > 4
    }
    assert {name: columns for name, columns in told.items() if name in FORMATS} == {
        k: str(f) for k, f in FORMATS.items()
    }
    assert all(ending in page for ending in ENDINGS)
