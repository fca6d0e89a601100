"""Answers of a batch: as ``generate`` finds them, but without work on those that have ended."""

from __future__ import annotations

import pytest
import tiny
import torch
from families import NAMES, make, tokens

from guided_ft.task import greedy as module
from guided_ft.task.answers import answers
from guided_ft.task.greedy import greedy

LENGTH = 20


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve prompts, some of them padded."""
    ids = tokens(rows=12)
    mask = torch.ones_like(ids)
    for row in range(0, 12, 2):
        mask[row, : row // 3 + 1] = 0
    return ids, mask


def ends(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    """What ``generate`` answers, each up to its end: the oracle."""
    out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=LENGTH, pad_token_id=0)[
        :, ids.shape[1] :
    ]
    ending = model.generation_config.eos_token_id or []
    found = []
    for row in out.tolist():
        stops = [i for i, token in enumerate(row) if token in ending]
        found.append(row[: stops[0] + 1] if stops else row)
    return found


def with_ends(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> None:
    """Name tokens as ends so that some answers end early, some late and some never."""
    model.generation_config.eos_token_id = None
    said = ends(model, ids, mask)
    firsts = [row[(3 * i) % LENGTH] for i, row in enumerate(said[:3])]
    model.generation_config.eos_token_id = sorted(set(firsts))


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_generate(name, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    model, (ids, mask) = make(name), prompts()
    with_ends(model, ids, mask)
    expected = ends(model, ids, mask)
    assert len(set(map(len, expected))) > 1
    found = greedy(model, ids, mask, max_new_tokens=LENGTH, pad=0)
    assert [answer[: len(right)] for answer, right in zip(found, expected, strict=True)] == expected
    assert all(len(answer) < len(right) + 3 for answer, right in zip(found, expected, strict=True))


def test_the_end_that_the_tokenizer_knows_ends_answers_too(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    model, (ids, mask) = make("llama"), prompts()
    with_ends(model, ids, mask)
    *known, end = model.generation_config.eos_token_id
    for of_model in (known, None):
        model.generation_config.eos_token_id = of_model
        said = ends(model, ids, mask)
        found = greedy(model, ids, mask, max_new_tokens=LENGTH, pad=0, end=end)
        cut = [row[: row.index(end) + 1] if end in row else row for row in said]
        assert cut != said
        assert [answer[: len(right)] for answer, right in zip(found, cut, strict=True)] == cut
        assert all(set(answer[len(right) :]) <= {0} for answer, right in zip(found, cut, strict=True))


def test_a_tokenizer_that_has_no_token_to_pad_with_asks_all_the_same():
    model, bare = make("llama"), tiny.tokenizer()
    model.generation_config.eos_token_id = bare.eos_token = None
    padded = answers(model, bare, ["1+1 =", "2", "33"], progress=False)
    bare.pad_token = None
    assert answers(model, bare, ["1+1 =", "2", "33"], progress=False) == padded


def test_answers_that_have_ended_cost_nothing_more(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    model, (ids, mask) = make("llama"), prompts()
    with_ends(model, ids, mask)
    lengths = list(map(len, ends(model, ids, mask)))
    read = []
    handle = model.register_forward_pre_hook(
        lambda m, a, kwargs: read.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    greedy(model, ids, mask, max_new_tokens=LENGTH, pad=0)
    handle.remove()
    assert read[0] == ids.shape
    # The prompts were read once, each answer to the end of its chunk at most, and one token at a time.
    assert {length for _, length in read[1:]} == {1}
    assert sum(rows for rows, _ in read) <= sum(-(-length // 3) * 3 for length in lengths) < LENGTH * len(ids)
