"""Answers to choose from: their prompt is read once, and the losses are those of whole sequences."""

from __future__ import annotations

import pytest
import tiny
import torch
from families import make

from guided_ft.pipeline import choices
from guided_ft.pipeline.choices import answer_losses, likeliest
from guided_ft.task.task import Task

LABELS = (" few", " many", " f")
PROMPTS = [f"There are {n} things in it, and so there are" for n in (1, 22, 333, 4, 55, 666, 7, 88)]


def tasks():
    rows = [[{"prompt": prompt, "completion": label} for prompt in PROMPTS] for label in LABELS]
    return [Task.from_dataset(part, tiny.tokenizer(), batch_size=2) for part in rows]


def counting(model):
    """The model, and how many tokens it has read."""
    read = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return model, read


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "gpt2", "opt", "mixtral"])
def test_the_losses_are_those_of_whole_sequences_and_a_prompt_is_read_once(name):
    model, read = counting(make(name))
    asked = tasks()
    whole = torch.stack([torch.cat([t.quantity(model, b) for b in t.batches()]) for t in asked])
    before = sum(read)
    read.clear()
    with torch.no_grad():
        found = answer_losses(model, asked)
    assert (found - whole).abs().max() <= 1e-4
    # The first example is read both ways.
    assert sum(read) < 0.65 * before
    assert likeliest(model, asked) == whole.argmin(0).tolist()


def test_a_model_that_goes_on_otherwise_is_read_whole(monkeypatch):
    model, asked = make("llama"), tasks()
    whole = torch.stack([torch.cat([t.quantity(model, b) for b in t.batches()]) for t in asked])
    monkeypatch.setattr(choices, "_after_prompt", lambda model, sequences: torch.zeros(len(sequences)))
    with torch.no_grad():
        assert torch.equal(answer_losses(model, asked), whole)
    monkeypatch.setattr(choices, "_after_prompt", lambda model, sequences: None)
    with torch.no_grad():
        assert torch.equal(answer_losses(model, asked), whole)
