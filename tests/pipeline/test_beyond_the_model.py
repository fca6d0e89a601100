"""What a recipe asks of a model that the model does not have is told before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import tiny_run
import torch
from families import FAMILIES
from refusing import refuses
from transformers import AutoConfig, AutoModelForCausalLM

from guided_ft import run
from guided_ft.errors import GuidedError
from guided_ft.pipeline.evaluate import retention
from guided_ft.scorers.self_text import self_text
from guided_ft.task.answers import answers
from guided_ft.task.task import Task
from guided_ft.task.tokens import read_row


def narrow(folder, window=24, **changes):
    """A recipe on a GPT-2 that reads ``window`` tokens at most, with rows of up to 13."""
    asked = tiny_run.recipe(folder, family="gpt2", control="none", **changes)
    short_sighted(window).save_pretrained(folder / "base-gpt2")
    return asked


def short_sighted(window=24):
    """A model whose positions are learned: there is nothing beyond the last."""
    config = AutoConfig.for_model("gpt2", **{**FAMILIES["gpt2"], "max_position_embeddings": window})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


CHANGES = {
    "retention": (
        {"evaluate": {"retention_examples": 4, "retention_tokens": 30}},
        "evaluate.retention_tokens: 30 is more than the model's window of 24",
    ),
    "generation": (
        {"evaluate": {"retention": "none", "max_new_tokens": 20}},
        "tokens and an answer of 20 are more than the model's window of 24 (shorten the prompt, "
        "or lower max_new_tokens)",
    ),
    "budget": (
        {"select": {"budget": "3", "kinds": ["head"]}, "evaluate": {"retention": "none"}},
        "budget",
    ),
    "layers": ({"select": {"budget": "5%", "first_layer": 7}, "evaluate": {"retention": "none"}}, "first_layer"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_it_is_told_first(kind, tmp_path, monkeypatch):
    changes, said = CHANGES[kind]
    asked = narrow(tmp_path, **changes)
    monkeypatch.setattr("guided_ft.pipeline.stages.measure", lambda *args: pytest.fail("it began"))
    with pytest.raises(GuidedError) as caught:
        run(asked, quiet=True)
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_rows_beyond_the_window_are_told_first(tmp_path):
    asked = narrow(tmp_path, evaluate={"retention": "none"})
    rows = [*tiny.sums(40), {"prompt": "1" * 30, "completion": " 2"}]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = asked.model_copy(update={"data": asked.data.model_copy(update={"train": 33})})
    with pytest.raises(GuidedError, match=r"^data: row \d+ has \d+ tokens, but the model's window is 24 \(write train"):
        run(asked, quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("trainer", ["sft", "dpo"])
def test_rows_that_just_fit_are_not_padded_beyond_the_window(trainer, tmp_path):
    train = {"trainer": trainer, "steps": 6, "max_length": 22}
    asked = narrow(tmp_path, window=22, train=train, localize={"retain": "none"}, evaluate={"retention": "none"})
    rows = tiny.pairs(40) if trainer == "dpo" else tiny.sums(40)
    rows = [row | {"prompt": row["prompt"].rjust(17, "0")} for row in rows]
    Path(asked.data.path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert max(len(sequence.ids) for row in rows for sequence in read_row(row, tiny.tokenizer())) == 22
    assert run(asked, until="train", quiet=True)["train"]["loss"][-1][0] == 6


def test_in_a_script_too():
    model, tokenizer = short_sighted(), tiny.tokenizer()
    with refuses(
        "prompt 1: its 20 tokens and an answer of 8 are more than the model's window of 24 (shorten the prompt, or "
        "lower max_new_tokens)"
    ):
        answers(model, tokenizer, ["1", "2" * 20], max_new_tokens=8, progress=False)
    text = Task.from_dataset([{"text": "3" * 30}], tokenizer, name="long")
    with pytest.raises(GuidedError, match="'long': example 0 has 31 tokens, but the model's window is 24"):
        retention(model, text)
    assert max(len(e[0].ids) for e in self_text(model, num_examples=4, num_tokens=48, progress=False).examples) <= 24
