"""Standard sets of questions with given answers, scored by which answer is likeliest per character."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guided_ft.system.files import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ITEMS = 150
"""Of each set, the first ones."""


@dataclass(frozen=True)
class Question:
    prompt: str
    answers: tuple[str, ...]
    right: int


def read(folder: Path, count: int) -> list[Json]:
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


def accuracy(model: PreTrainedModel, tokenizer: Any, questions: list[Question], batch_size: int = 16) -> float:
    """Share of questions whose right answer has the highest log-likelihood per character, 0 to 100.

    A question is read once, with all its answers behind it, each of which sees the question and itself.
    """
    import torch
    import torch.nn.functional as F

    found = [_Tree.of(question, tokenizer) for question in questions]
    order = sorted(range(len(found)), key=lambda i: len(found[i].ids))
    device = next(model.parameters()).device
    right = 0
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        trees = [found[i] for i in some]
        width = max(len(tree.ids) for tree in trees)
        ids = torch.tensor([tree.ids + [0] * (width - len(tree.ids)) for tree in trees], device=device)
        places = torch.tensor([tree.places + [0] * (width - len(tree.ids)) for tree in trees], device=device)
        mask = torch.stack([tree.mask(width) for tree in trees])[:, None].to(device, model.dtype)
        with torch.no_grad():
            decoder = model.get_decoder()
            hidden = decoder(input_ids=ids, position_ids=places, attention_mask=mask, use_cache=False)[0]
            # What predicts an answer's first token is the question's last.
            spots = [
                (row, spot)
                for row, tree in enumerate(trees)
                for begin, end in tree.answers
                for spot in (tree.prompt - 1, *range(begin, end - 1))
            ]
            wanted = torch.cat([ids[row, begin:end] for row, tree in enumerate(trees) for begin, end in tree.answers])
            # One product for the batch: the head is the largest weight, and reading it takes longer than using it.
            logits = model.get_output_embeddings()(hidden[tuple(torch.tensor(spots, device=device).T)]).float()
            losses = iter(F.cross_entropy(logits, wanted, reduction="none").tolist())
        for i, tree in zip(some, trees, strict=True):
            scores = [
                -sum(islice(losses, end - begin)) / len(text)
                for text, (begin, end) in zip(questions[i].answers, tree.answers, strict=True)
            ]
            right += max(range(len(scores)), key=scores.__getitem__) == questions[i].right
    return 100 * right / len(questions)


@dataclass(frozen=True)
class _Tree:
    """A question's tokens and, behind them, those of each answer.

    Args:
        places: the position of each token, which for every answer goes on from the question.
        prompt: tokens of the question.
        answers: where each begins and ends.
    """

    ids: list[int]
    places: list[int]
    prompt: int
    answers: list[tuple[int, int]]

    @classmethod
    def of(cls, question: Question, tokenizer: PreTrainedTokenizerBase) -> _Tree:
        prompt = len(tokenizer(question.prompt)["input_ids"])
        whole = [tokenizer(question.prompt + answer)["input_ids"] for answer in question.answers]
        ids, places, answers = whole[0][:prompt], list(range(prompt)), []
        for row in whole:
            answers.append((len(ids), len(ids) + len(row) - prompt))
            ids = ids + row[prompt:]
            places += range(prompt, len(row))
        return cls(ids, places, prompt, answers)

    def mask(self, width: int) -> Any:
        """What is added to attention ``[width, width]``: nothing, or as good as minus infinity."""
        import torch

        seen = torch.ones(width, width, dtype=torch.bool).tril()
        for begin, _ in self.answers:
            seen[begin:, self.prompt : begin] = False
        return torch.zeros(width, width).masked_fill(~seen, torch.finfo(torch.float32).min)
