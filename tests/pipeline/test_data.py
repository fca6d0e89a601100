"""Rows: different, kept apart, and named when they are wrong."""

from __future__ import annotations

import json

import pytest

from guided_ft.errors import GuidedError
from guided_ft.pipeline.data import load_rows
from guided_ft.recipe.recipe import Data

SUMS = {
    "name": "chain_sum",
    "options": {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
    "contains": " + ",
}

DIGITS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
"""There are a hundred sums of two digits."""


def test_sums_are_right_and_no_prompt_is_in_both():
    train, test = load_rows(Data(**SUMS, train=200, test=50), seed=0)
    prompts = [row["prompt"] for row in train + test]
    assert (len(train), len(test), len(set(prompts))) == (200, 50, 250)
    for row in train + test:
        left, right = row["prompt"].split(": ")[1].removesuffix(" =").split(" + ")
        assert row["completion"] == f" {int(left) + int(right)}"


def test_rows_repeat_with_the_seed():
    first, second, other = (load_rows(Data(**SUMS, train=20, test=5), seed=s) for s in (0, 0, 1))
    assert first == second != other


def test_preferences_pair_the_right_number_with_a_wrong_one():
    train, _ = load_rows(Data(**SUMS, preference=True, train=50, test=5), seed=0)
    assert set(train[0]) == {"prompt", "chosen", "rejected"}
    assert all(int(row["chosen"]) != int(row["rejected"]) for row in train)
    assert all(abs(int(row["chosen"]) - int(row["rejected"])) <= 11 for row in train)


def test_files_are_read_and_well_known_columns_renamed(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{i % 8}", "answer": f"a{i}"}) + "\n" for i in range(10)))
    train, test = load_rows(Data(source="file", path=str(path), train=5, test=3), seed=0)
    assert {row["prompt"] for row in train}.isdisjoint(row["prompt"] for row in test)
    assert all(row["completion"].startswith(" a") for row in train)


def test_a_test_file_takes_its_prompts_out_of_training(tmp_path):
    for name, numbers in (("train", range(6)), ("test", range(4, 7))):
        rows = [{"prompt": f"p{i}", "completion": " c"} for i in numbers]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = Data(
        source="file", path=str(tmp_path / "train.jsonl"), test_path=str(tmp_path / "test.jsonl"), train=4, test=3
    )
    train, test = load_rows(data)
    assert sorted(row["prompt"] for row in train) == ["p0", "p1", "p2", "p3"]
    assert sorted(row["prompt"] for row in test) == ["p4", "p5", "p6"]


def test_of_sorted_files_rows_of_all_labels_are_drawn(tmp_path):
    for name in ("train", "test"):
        lines = [json.dumps({"text": f"{name} {i}", "label": f"{i // 200}"}) + "\n" for i in range(400)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    data = Data(source="file", path=str(tmp_path / "train.jsonl"), test_path=str(tmp_path / "test.jsonl"))
    train, test = load_rows(data, seed=0)
    assert (len(train), len(test)) == (400, 100)
    for rows in (train[:64], test):
        assert sum(row["completion"] == " 0" for row in rows) == pytest.approx(len(rows) / 2, rel=0.3)
    assert load_rows(data, seed=0) == (train, test) != load_rows(data, seed=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            SUMS | {"options": DIGITS, "train": 95, "test": 20},
            "100 different rows contain ' + ' (data.contains), but train=95 and test=20 were",
        ),
        ({"name": "chain_sums"}, "reasoning_gym cannot make 'chain_sums'"),
        ({"name": "chain_sum", "options": {"min_termz": 2}}, "reasoning_gym cannot make 'chain_sum'"),
        ({"name": "chain_sum", "options": {"seed": 2}}, "'seed' is set by the recipe"),
        ({"name": "spell_backward", "preference": True}, "is not a whole number"),
        ({"source": "file", "path": "none.jsonl"}, "none.jsonl: cannot be read"),
    ],
)
def test_what_cannot_be_had_is_named(settings, message):
    with pytest.raises(GuidedError) as error:
        load_rows(Data(**{"train": 20, "test": 5, **settings}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def write(folder, *rows):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Data(source="file", path=str(folder / "rows.jsonl"), train=1, test=1)


@pytest.mark.parametrize("line", ["[1]", "{", "[" * 100_000])
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    with pytest.raises(GuidedError, match=r"rows.jsonl:2: not a JSON object"):
        load_rows(Data(source="file", path=str(tmp_path / "rows.jsonl")))


def test_lines_end_where_json_lines_end(tmp_path):
    rows = [{"prompt": f"a\u2028b\u2029c\x85d{i}", "completion": "e"} for i in range(2)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (tmp_path / "rows.jsonl").write_bytes("\r\n".join([*lines, "", ""]).encode())
    train, test = load_rows(Data(source="file", path=str(tmp_path / "rows.jsonl"), train=1, test=1))
    assert sorted(row["prompt"] for row in train + test) == [row["prompt"] for row in rows]


def test_the_input_of_an_instruction_is_part_of_the_prompt(tmp_path):
    rows = [{"instruction": "Add.", "input": text, "output": "5"} for text in ("2 + 3", "1 + 4", " ")]
    train, test = load_rows(write(tmp_path, *rows).model_copy(update={"train": 2}))
    assert {row["prompt"] for row in train + test} == {"Add.\n\n2 + 3", "Add.\n\n1 + 4", "Add."}
    assert all(row["completion"] == " 5" for row in train + test)


def said(text, role="user"):
    return [{"role": role, "content": text}]


GOOD = {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize(
    ("rows", "trainer", "message"),
    [
        (
            [GOOD, {"messages": said("a")}],
            "sft",
            ":2: it is messages (messages), but the first row is prompt + completion",
        ),
        ([GOOD, {"prompt": "c"}], "sft", ":2: no known format has the columns 'prompt' (nearest: prompt + completion,"),
        ([GOOD, {"prompt": "c", "completion": None}], "sft", ":2: no known format has the columns 'prompt'"),
        ([GOOD, {"prompt": 1, "completion": 1}], "sft", ":2: prompt: expected text, got 1 (put it in quotes"),
        ([GOOD, {"prompt": [], "completion": []}], "sft", ":2: prompt: no message in it"),
        ([GOOD, {"prompt": "c", "completion": said("b")}], "sft", ":2: prompt and answer must both be text or both be"),
        (
            [GOOD, {"prompt": said("c"), "completion": said("b")}],
            "sft",
            ":2: it is prompt + completion (messages), but",
        ),
        (
            [GOOD, {"prompt": "c", "chosen": "d", "rejected": "e"}],
            "sft",
            ":2: it is prompt + chosen + rejected (text), but",
        ),
        (
            [GOOD, GOOD],
            "dpo",
            "data: the rows are single answers, and trainer dpo cannot learn them (write trainer=sft)",
        ),
        ([{"prompt": "c", "chosen": "d", "rejected": "e"}], "sft", "data: the rows are pairs (chosen + rejected), and"),
    ],
)
def test_a_row_that_the_trainer_cannot_take_is_named(tmp_path, rows, trainer, message):
    with pytest.raises(GuidedError) as error:
        load_rows(write(tmp_path, *rows), trainer=trainer)
    where = "" if message.startswith("data") else str(tmp_path / "rows.jsonl")
    assert str(error.value).startswith(where + message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "said_in"), [("id", "message"), ("id", "row"), ("tools", "row")])
def test_the_same_question_is_never_in_both_whatever_else_the_row_says(tmp_path, key, said_in):
    # Eight questions, each written three times with something that no template shows.
    rows = []
    for i in range(24):
        message = {"role": "user", "content": f"q{i % 8}"}
        row = {"prompt": [message], "completion": said(f"a{i}", "assistant")}
        (message if said_in == "message" else row)[key] = f"{i}" if key == "id" else None
        rows.append(row)
    train, test = load_rows(write(tmp_path, *rows).model_copy(update={"train": "auto", "test": 3}))
    held_out = {row["prompt"][0]["content"] for row in test}
    assert (len(held_out), len(train)) == (3, 15)
    assert held_out.isdisjoint(row["prompt"][0]["content"] for row in train)


def turns(conversation, count):
    """So many turns of a conversation, each a question and its answer."""
    return [m for i in range(count) for m in said(f"c{conversation} q{i}") + said(f"a{conversation}{i}", "assistant")]


@pytest.mark.parametrize("apart", [False, True])
def test_a_conversation_that_goes_on_after_a_test_question_is_not_trained_on(tmp_path, caplog, apart):
    # Conversations as they are exported: a row for each answer, with all that was said before it.
    told = [turns(conversation, count) for conversation in range(20) for count in (1, 2, 3)]
    rows = [{"prompt": m[:-1], "completion": m[-1:]} if apart else {"messages": m} for m in told]
    train, test = load_rows(write(tmp_path, *rows).model_copy(update={"train": "auto", "test": 12}))
    seen, held_out = ([r.get("messages") or r["prompt"] + r["completion"] for r in part] for part in (train, test))
    assert not [m for m in seen for question in held_out if m[: len(question) - 1] == question[:-1]]
    # What only came before a test question is trained on.
    kept = [m for m in told if not any(m[: len(question) - 1] == question[:-1] for question in held_out)]
    assert sorted(map(str, seen)) == sorted(map(str, kept))
    assert [m for m in seen for question in held_out if question[: len(m)] == m]
    left_out = f"data: {60 - 12 - len(train)} training rows are conversations that hold the question of a test row"
    assert left_out in caplog.text


def test_a_question_keeps_all_its_answers_and_the_same_row_counts_once(tmp_path):
    rows = [{"prompt": f"p{i // 3}", "chosen": f"c{i}", "rejected": "r"} for i in range(12)] * 2
    train, test = load_rows(write(tmp_path, *rows).model_copy(update={"train": "auto"}), trainer="dpo")
    assert (len(train), len(test)) == (9, 1)


def test_a_row_of_the_hub_is_named_too(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: [GOOD, {"text": "a"}])
    with pytest.raises(
        GuidedError, match=r"data: 'owner/name' row 1: it is text \(text\), but the first row is prompt"
    ):
        load_rows(Data(source="hub", name="owner/name", train=1, test=1))
