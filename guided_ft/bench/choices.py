"""Standard sets of questions with given answers, scored by which answer is likeliest per character."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ITEMS = 150
"""Of each set, the first ones."""


@dataclass(frozen=True)
class Question:
    prompt: str
    answers: tuple[str, ...]
    right: int


def read(folder: Path, count: int) -> list[dict[str, Any]]:
    """The first rows of the one data set stored somewhere below a folder."""
    from datasets import load_from_disk

    state = sorted(folder.rglob("state.json"))[0]
    data = load_from_disk(str(state.parent))
    return [dict(row) for row in data.select(range(min(count, len(data))))]


def _arc(sets: Path) -> list[Question]:
    """ARC-Easy (arXiv 1803.05457)."""
    return [
        Question(
            f"Question: {row['question']}\nAnswer:",
            tuple(f" {text}" for text in row["choices"]["text"]),
            row["choices"]["label"].index(row["answerKey"]),
        )
        for row in read(sets / "ai2_arc" / "ARC-Easy", ITEMS)
    ]


def _piqa(sets: Path) -> list[Question]:
    """PIQA (arXiv 1911.11641)."""
    return [
        Question(f"Question: {row['goal']}\nAnswer:", (f" {row['sol1']}", f" {row['sol2']}"), row["label"])
        for row in read(sets / "piqa", ITEMS)
    ]


def _sciq(sets: Path) -> list[Question]:
    """SciQ (arXiv 1707.06209), without its supporting text."""
    wrong = ("distractor1", "distractor2", "distractor3")
    return [
        Question(
            f"Question: {row['question']}\nAnswer:",
            tuple(f" {row[name]}" for name in (*wrong, "correct_answer")),
            len(wrong),
        )
        for row in read(sets / "sciq", ITEMS)
    ]


SETS: dict[str, Callable[[Path], list[Question]]] = {"arc_easy": _arc, "piqa": _piqa, "sciq": _sciq}


def accuracy(model: Any, tokenizer: Any, questions: list[Question], batch_size: int = 32) -> float:
    """Share of questions whose right answer has the highest log-likelihood per character, 0 to 100."""
    import torch
    import torch.nn.functional as F

    texts = [(q.prompt, answer) for q in questions for answer in q.answers]
    # Texts of a length beside each other: less padding to compute.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i][0] + texts[i][1]))
    scores = [0.0] * len(texts)
    device = next(model.parameters()).device
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        whole = [tokenizer(texts[i][0] + texts[i][1])["input_ids"] for i in some]
        prompts = [len(tokenizer(texts[i][0])["input_ids"]) for i in some]
        width = max(map(len, whole))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in whole], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in whole], device=device)
        answered = torch.zeros_like(ids, dtype=torch.bool)
        for row, (begin, end) in enumerate(zip(prompts, map(len, whole), strict=True)):
            answered[row, begin:end] = True
        with torch.no_grad():
            hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            scored = answered[:, 1:]
            logits = model.get_output_embeddings()(hidden[:, :-1][scored]).float()
        losses = F.cross_entropy(logits, ids[:, 1:][scored], reduction="none")
        rows = scored.nonzero()[:, 0]
        for row, i in enumerate(some):
            scores[i] = -float(losses[rows == row].sum()) / len(texts[i][1])
    right, at = 0, 0
    for question in questions:
        mine = scores[at : at + len(question.answers)]
        right += max(range(len(mine)), key=mine.__getitem__) == question.right
        at += len(question.answers)
    return 100 * right / len(questions)
