"""Memory that runs out while localizing makes batches smaller, and scores no other."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from families import make
from refusing import refuses
from untouched import equal, state_of

from guided_ft import Task, localize
from guided_ft.anatomy import KINDS
from guided_ft.system import processes


def limited(monkeypatch, rows: int, error: Exception):
    """A model that has room for so many rows at a time."""
    model = make("llama")
    forward = model.forward

    def call(*args, **kwargs):
        if len(kwargs["input_ids"]) > rows:
            raise error
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", call)
    return model


ERRORS = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 TiB."),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: ..."
    ),
    "python": MemoryError(),
}


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("method", ["attribution", "fisher", "activation", "contrast"])
def test_the_scores_are_the_same(kind, method, monkeypatch, caplog):
    task = Task.from_dataset(tiny.sums(12), tiny.tokenizer(), batch_size=8, name="sums")
    other = Task.from_dataset(tiny.sums(12), tiny.tokenizer(), batch_size=8, name="other")
    kinds = ("layer", "head")
    expected = localize(make("llama"), task, method, other, kinds, progress=False)
    model = limited(monkeypatch, 2, ERRORS[kind])
    before = state_of(model)
    found = localize(model, task, method, other, kinds, progress=False)
    for each in kinds:
        np.testing.assert_allclose(found.of(each), expected.of(each), rtol=1e-4, atol=1e-5)
    assert "task 'sums': out of memory, so it is read in batches of 2" in caplog.text
    assert equal(state_of(model), before)


def test_one_example_that_is_too_large_is_told(monkeypatch):
    task = Task.from_dataset(tiny.sums(4), tiny.tokenizer(), name="sums")
    model = limited(monkeypatch, 0, ERRORS["cpu"])
    with refuses(
        "task 'sums': one example at a time is too much for the memory (the longest has 10 tokens: lower max_length, or "
        "choose a smaller model)"
    ):
        localize(model, task, retain=None, kinds=KINDS, progress=False)


def test_other_errors_and_several_processes_are_left_alone(monkeypatch):
    task = Task.from_dataset(tiny.sums(4), tiny.tokenizer())
    with pytest.raises(RuntimeError, match="shapes"):
        localize(limited(monkeypatch, 0, RuntimeError("shapes")), task, retain=None, progress=False)
    monkeypatch.setattr(processes, "size", lambda: 2)
    monkeypatch.setattr(processes, "agree", lambda task: None, raising=False)
    from guided_ft.scorers.memory import within_memory

    with pytest.raises(MemoryError):
        within_memory(task, lambda size: (_ for _ in ()).throw(MemoryError()))
