"""The model of a run is talked to, answers files and leaves as it was trained."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import unittest.mock
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import tiny
import torch
from families import logits, make, tokens
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file
from trained import trained
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from guided_ft import GuidedError, load_model
from guided_ft.cli import app
from guided_ft.recipe.recipe import Data, Recipe
from guided_ft.task.answers import answers
from guided_ft.task.tokens import prompt_ids
from guided_ft.use import chat as talking
from guided_ft.use import generate as generating
from guided_ft.use.chat import chat, clean, reply
from guided_ft.use.finished import Finished
from guided_ft.use.generate import generate
from guided_ft.use.leave import export, push
from guided_ft.use.prompts import read_questions

MODES = ("slice", "lora", "freeze")
LENGTH = 6


@pytest.fixture(scope="module", params=MODES)
def run(request, tmp_path_factory):
    return trained(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("slices"))


# -- the model itself ------------------------------------------------------------------------------------------------
def test_it_is_the_one_that_was_saved_and_its_base_beside_it(run):
    finished, model = run
    base = logits(load_model(finished.recipe.model))
    assert torch.equal(logits(finished.model), logits(model))
    assert (logits(model) - base).abs().max() > 0.01
    with finished.base() as before:
        assert torch.equal(logits(before), base)
    assert torch.equal(logits(finished.model), logits(model))


def test_every_mode_leaves_a_short_and_filled_card(run):
    finished, _ = run
    text = (finished.saved / "README.md").read_text()
    assert "[More Information Needed]" not in text
    assert f"`{finished.recipe.model}`" in text
    assert "2 heads, 2 neurons" in text
    assert f"- mode: {finished.recipe.train.mode}" in text
    assert len(text.splitlines()) < 40


# -- talking -----------------------------------------------------------------------------------------------------------
def test_a_reply_ends_where_the_tokenizer_ends_a_text():
    model, tokenizer = make("llama"), tiny.tokenizer()
    model.generation_config.eos_token_id = None
    ids = torch.tensor([prompt_ids("1+3 =", tokenizer)])
    first = model.generate(input_ids=ids, do_sample=False, max_new_tokens=1, pad_token_id=0)[0, -1]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(int(first))
    read = []
    model.register_forward_pre_hook(lambda *args: read.append(args))
    reply(model, tokenizer, "1+3 =", lambda text: None, max_new_tokens=LENGTH)
    assert len(read) == 1


def test_each_line_is_answered_as_evaluation_would(run):
    finished, model = run
    pieces: list[str] = []
    chat(finished, ["1+3 =\n", "\n", "2+6 ="], pieces.append, base=True, max_new_tokens=LENGTH)
    base = load_model(finished.recipe.model)
    lines = ["1+3 =", "2+6 ="]
    said = [answers(m, tiny.tokenizer(), lines, max_new_tokens=LENGTH) for m in (base, model)]
    told = "".join(pieces)
    assert [line.split("> ", 1)[0] for line in told.splitlines()] == ["base", "trained"] * 2
    found = [line.split("> ", 1)[1].strip() for line in told.splitlines()]
    assert found == [said[0][0], said[1][0], said[0][1], said[1][1]]
    assert said[0] != said[1]


def test_words_come_one_by_one(slices, monkeypatch):
    finished, _ = slices
    pieces: list[str] = []
    monkeypatch.setattr(type(finished.model.get_base_model()), "generate", _spell)
    chat(finished, ["1"], pieces.append)
    # Some versions of transformers write the space between two words by itself.
    assert "".join(pieces) == "a b c\n"
    assert len(pieces) >= 4


def test_an_answer_ends_with_the_window(slices):
    finished, _ = slices
    window = finished.model.config.max_position_embeddings
    length = len(prompt_ids("1+3 =", finished.tokenizer))
    with unittest.mock.patch.object(type(finished.model), "generate", autospec=True) as generate:
        chat(finished, ["1+3 ="], lambda text: None, max_new_tokens=10 * window)
    assert generate.call_args.kwargs["max_new_tokens"] == window - length
    with pytest.raises(GuidedError, match=f"prompt 0: its {window + 1} tokens and an answer of 1 are more than"):
        chat(finished, ["1" * (window + 1)], lambda text: None)


def _spell(self, streamer, **options):
    streamer.put(torch.tensor([[1]]))
    for token in tiny.tokenizer()("a b c")["input_ids"]:
        streamer.put(torch.tensor([token]))
    streamer.end()


def test_a_conversation_remembers_and_begins_anew(slices, monkeypatch):
    finished, _ = slices
    asked: list = []

    def reply(model, tokenizer, prompt, write, **options):
        asked.append([(turn["role"], turn["content"]) for turn in prompt])
        return f"answer {len(asked)}"

    monkeypatch.setattr(talking, "reply", reply)
    monkeypatch.setattr(finished.tokenizer, "chat_template", "{{ messages }}")
    chat(finished, ["one", "two", "/new", "three"], lambda text: None, template=True, system="Be brief.")
    system = ("system", "Be brief.")
    assert asked == [
        [system, ("user", "one")],
        [system, ("user", "one"), ("assistant", "answer 1"), ("user", "two")],
        [system, ("user", "three")],
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": True}, "template: this model has no chat template (leave --template out)"),
        ({"system": "x"}, "system: plain prompts have no system message (add --template, or leave it out)"),
    ],
)
def test_what_cannot_be_said(slices, options, message):
    with pytest.raises(GuidedError) as error:
        chat(slices[0], ["1"], lambda text: None, **options)
    assert str(error.value) == message


def test_no_answer_moves_the_cursor():
    assert clean("a\x1b[2Jb\r\nc\td") == "a [2Jb \nc\td"


# -- answering a file ------------------------------------------------------------------------------------------------
def test_rows_get_their_answers(slices, tmp_path):
    finished, model = slices
    rows = [{**row, "id": i} for i, row in enumerate(tiny.sums(5))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, right = generate(finished, read_questions(tmp_path / "rows.jsonl"), base=True, max_new_tokens=LENGTH)
    said = answers(model, tiny.tokenizer(), [row["prompt"] for row in rows], max_new_tokens=LENGTH)
    assert [row.pop("trained_answer") for row in found] == said
    assert [row.pop("base_answer") for row in found] != said
    assert found == rows
    assert set(right) == {"trained_answer", "base_answer"}
    assert right["trained_answer"] == 20 * sum(
        s == row["completion"].strip() for s, row in zip(said, rows, strict=True)
    )


TALK = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("name", "text", "prompt", "answer"),
    [
        ("a.txt", "1+1=\n", "1+1=", None),
        ("a.jsonl", '{"prompt": "1+1="}', "1+1=", None),
        ("a.jsonl", '{"prompt": "1+1=", "id": 3}', "1+1=", None),
        ("a.jsonl", '{"prompt": "1+1=", "completion": " 2"}', "1+1=", " 2"),
        ("a.jsonl", '{"question": "1+1=", "answer": "2"}', "1+1=", " 2"),
        ("a.jsonl", '{"question": "1+1="}', "1+1=", None),
        ("a.jsonl", '{"instruction": "Add", "input": "1+1"}', "Add\n\n1+1", None),
        ("a.csv", "instruction,output\nAdd,2\n", "Add", " 2"),
        ("a.jsonl", json.dumps({"messages": TALK}), TALK, None),
        ("a.jsonl", json.dumps({"messages": [*TALK, {"role": "assistant", "content": "yo"}]}), TALK, "yo"),
    ],
)
def test_what_a_file_asks(name, text, prompt, answer, tmp_path):
    (tmp_path / name).write_text(text)
    [question] = read_questions(tmp_path / name)
    assert (question.prompt["prompt"], question.answer) == (prompt, answer)


FACTS = {"context": "1+1=2", "question": "1+1=", "answer": "2"}
PAIRED = {"columns": {"prompt": "statement", "chosen": "matching", "rejected": "not_matching"}}
TOGETHER = {"prompt": "{context}; {question}"}


@pytest.mark.parametrize(
    ("settings", "row", "prompt", "answer"),
    [
        (TOGETHER, FACTS, "1+1=2; 1+1=", " 2"),
        (TOGETHER, {k: v for k, v in FACTS.items() if k != "answer"}, "1+1=2; 1+1=", None),
        # Written for no settings: asked as it is.
        (TOGETHER, {"prompt": "1+1="}, "1+1=", None),
        (TOGETHER, {"prompt": "1+1=", "completion": " 2"}, "1+1=", " 2"),
        (PAIRED, {"statement": "so?", "matching": "Yes", "not_matching": "No"}, "so?", "Yes"),
        (PAIRED, {"statement": "so?", "id": 3}, "so?", None),
        (PAIRED, {"prompt": "so?"}, "so?", None),
        ({"format": "label"}, {"text": "so"}, "so\nLabel:", None),
        ({"format": "question"}, {**FACTS, "options": "none"}, "1+1=2\n\n1+1=", " 2"),
        ({"format": "question"}, {"prompt": "1+1="}, "1+1=", None),
    ],
)
def test_a_file_is_asked_as_the_runs_own_rows_were_trained(settings, row, prompt, answer, tmp_path):
    data = Data(source="file", path="rows.jsonl", **settings)
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    [question] = read_questions(tmp_path / "a.jsonl", data)
    assert (question.row, question.prompt["prompt"], question.answer) == (row, prompt, answer)


def test_a_file_that_lacks_a_column_of_the_runs_prompt_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "1+1=", "answer": "2"}')
    with pytest.raises(
        GuidedError, match=r"a.jsonl:1: no column 'context', which the prompt names \(there: 'question'"
    ):
        read_questions(tmp_path / "a.jsonl", Data(source="file", path="rows.jsonl", **TOGETHER))


def test_the_command_asks_what_the_run_was_trained_on(slices, tmp_path, monkeypatch):
    finished, seen = slices[0], []
    recipe = finished.recipe.to_dict()
    recipe["data"] |= {"prompt": "{left}+{right} ="}
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    Recipe.from_dict(recipe).save(folder / "recipe.yaml")
    (tmp_path / "a.jsonl").write_text('{"left": 1, "right": 3, "answer": "4"}')
    monkeypatch.setattr(generating, "answers", lambda model, tokenizer, prompts, **kw: seen.extend(prompts) or ["4"])
    result = CliRunner().invoke(app, ["generate", str(folder), str(tmp_path / "a.jsonl")])
    assert (result.exit_code, [prompt["prompt"] for prompt in seen]) == (0, ["1+3 ="])


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"colour": "red"}', "a.jsonl:1: no known format has the columns 'colour'"), ("", "a.jsonl: no rows in it")],
)
def test_a_file_that_asks_nothing(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(GuidedError) as error:
        read_questions("a.jsonl")
    assert str(error.value).startswith(message)


# -- leaving -----------------------------------------------------------------------------------------------------------
def test_a_merged_checkpoint_needs_nothing(run, tmp_path):
    finished, model = run
    folder = export(finished, "merged", tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert (logits(again) - logits(model)).abs().max() <= 1e-5
    assert AutoTokenizer.from_pretrained(folder)("1+3")["input_ids"] == tiny.tokenizer()("1+3")["input_ids"]
    assert "trained: " in (folder / "README.md").read_text()
    with pytest.raises(GuidedError, match=r"out: exists already \(remove it, or name another place with --out\)"):
        export(finished, "merged", tmp_path / "out")


def test_a_lora_loads_where_guided_ft_is_not(run, tmp_path):
    finished, model = run
    if finished.whole:
        with pytest.raises(GuidedError, match=r"lora: mode freeze trained the weights in place, .* \(write --merged\)"):
            export(finished, "lora")
        assert not (finished.folder / "export" / "lora").exists()
        return
    folder = export(finished, "lora")
    assert folder == finished.folder / "export" / "lora"
    assert "2 heads, 2 neurons" in (folder / "README.md").read_text()
    code = f"""
import sys
sys.modules["guided_ft"] = None
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base = AutoModelForCausalLM.from_pretrained({finished.recipe.model!r})
model = PeftModel.from_pretrained(base, {str(folder)!r}).eval()
AutoTokenizer.from_pretrained({str(folder)!r})
print(model(input_ids=torch.tensor({tokens().tolist()})).logits.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    assert (found - logits(model)).abs().max() <= 1e-4


def test_a_gguf_needs_a_vocabulary_that_it_can_hold(slices):
    with pytest.raises(GuidedError, match="gguf: this tokenizer is not of a kind that is written here"):
        export(slices[0], "gguf")
    assert not list((slices[0].folder / "export").glob("*.gguf"))


@pytest.mark.parametrize(("form", "weights"), [(None, "adapter_model.safetensors"), ("merged", "model.safetensors")])
def test_a_push_takes_weights_tokenizer_and_card(slices, form, weights, monkeypatch):
    files: dict[str, bytes] = {}

    def load(name, **options):
        if "README.md" in str(name):
            return ModelCard(Path(name).read_text())
        raise EntryNotFoundError("no card", SimpleNamespace(headers={}, request=None))

    def commit(self, *, repo_id, operations, **options):
        files.update({o.path_in_repo: Path(o.path_or_fileobj).read_bytes() for o in operations})
        return SimpleNamespace(commit_url=f"https://{repo_id}")

    monkeypatch.setattr(ModelCard, "load", load)
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(HfApi, "create_commit", commit)
    assert push(slices[0], "me/sums", form) == "https://me/sums"
    assert {weights, "tokenizer.json", "README.md"} <= set(files)
    card = files["README.md"].decode()
    assert '"me/sums")' in card
    assert "FOLDER OR REPOSITORY" not in card
    assert "2 heads, 2 neurons" in card


# -- refusals ----------------------------------------------------------------------------------------------------------
def test_a_folder_without_a_trained_model(slices, tmp_path):
    with pytest.raises(GuidedError, match=r"no recipe.yaml in it \(give the folder of a run"):
        Finished(tmp_path)
    slices[0].recipe.save(tmp_path / "recipe.yaml")
    with pytest.raises(GuidedError, match=r"its training is not done \(run: guided-ft train "):
        Finished(tmp_path)


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("adapter_config.json", lambda content: content[:-9], "the adapter cannot be loaded"),
        ("adapter_config.json", lambda content: content.replace(b'"axis": 0', b'"axis": 7'), "slices"),
        ("adapter_model.safetensors", lambda content: content[:-9], "the adapter cannot be loaded"),
        ("adapter_model.safetensors", lambda content: b"\xff" * 40, "the adapter cannot be loaded"),
    ],
)
def test_a_damaged_adapter_is_one_line(file, damage, said, tmp_path):
    finished, _ = trained(tmp_path)
    path = finished.saved / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(GuidedError) as caught:
        _ = finished.model
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_lora_of_no_numbers_is_refused(tmp_path):
    """PEFT loads it, and every answer would be made of NaN."""
    finished, _ = trained(tmp_path, "lora")
    path = finished.saved / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(GuidedError, match="is not finite"):
        _ = finished.model


CONFIGS = [
    ({"r": 10**9}, "a rank above the"),
    ({"rank_pattern": {"q_proj": 10**400}}, "a rank above the"),
    ({"alora_invocation_tokens": 2.5}, "alora_invocation_tokens, which no run does"),
]


@pytest.mark.parametrize(("change", "said"), CONFIGS)
def test_a_configuration_that_no_run_writes_is_refused_before_anything_is_made(change, said, tmp_path, monkeypatch):
    finished, _ = trained(tmp_path, "lora")
    path = finished.saved / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("made room"))
    with pytest.raises(GuidedError, match=said):
        _ = finished.model
