"""The tasks: a relation, arithmetic, indirect objects; and random text of one size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from guided_ft import Task
from guided_ft.pipeline.data import load_rows
from guided_ft.recipe.recipe import Data
from guided_ft.system.files import Json
from guided_ft.task.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAMES = ["Mary", "John", "Tom", "James", "Anna", "Paul", "Sarah", "David", "Mark", "Peter", "Laura", "Kate"]


def capitals(tokenizer: Any, relations: str | None) -> list[Json]:
    """A relation: capitals, from a file of evandez/relations or a list of our own."""
    known = (
        "France Paris Italy Rome Japan Tokyo Spain Madrid Egypt Cairo Cuba Havana Peru Lima Greece Athens Norway Oslo "
    )
    known += "Russia Moscow Austria Vienna Ireland Dublin China Beijing Portugal Lisbon Germany Berlin Poland Warsaw"
    words = known.split()
    pairs = list(zip(words[::2], words[1::2], strict=True))
    template = "The capital of {} is"
    if relations:
        data = json.loads(Path(relations).read_text())
        template = data["prompt_templates"][-1]
        pairs = [(sample["subject"], sample["object"]) for sample in data["samples"]]
    rows = [{"prompt": template.format(a), "completion": f" {b}"} for a, b in pairs]
    return _paired([row for row in rows if _length(tokenizer, row["completion"]) <= 2], tokenizer)


def sums(tokenizer: PreTrainedTokenizerBase, relations: str | None) -> list[Json]:
    """Arithmetic: the problems of reasoning-gym's ``chain_sum``, without its words, after one that is solved."""
    asked: dict[str, int | float | str | bool] = {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}
    found, _ = load_rows(
        Data(source="reasoning_gym", name="chain_sum", options=asked, contains=" + ", train=200, test=1)
    )
    (first, answer), *rest = [(row["prompt"].split(": ")[1], row["completion"]) for row in found]
    rows = [{"prompt": f"{first}{answer}\n{prompt}", "completion": completion} for prompt, completion in rest]
    return _paired(rows, tokenizer)


def indirect_object(tokenizer: PreTrainedTokenizerBase, relations: str | None) -> list[Json]:
    """Indirect object identification (Wang et al. 2022, arXiv 2211.00593); corrupted: the names change places."""
    rng = np.random.default_rng(0)
    names = [name for name in NAMES if _length(tokenizer, f" {name}") == 1]
    rows = []
    for place, thing in (("store", "drink"), ("park", "book"), ("school", "letter"), ("office", "gift")) * 16:
        a, b = (str(name) for name in rng.choice(names, 2, replace=False))
        told = f"Then, {a} and {b} went to the {place}. {{}} gave a {thing} to"
        rows.append({"prompt": told.format(b), "corrupted_prompt": told.format(a), "completion": f" {a}"})
    return rows


def _length(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _paired(rows: list[Json], tokenizer: PreTrainedTokenizerBase) -> list[Json]:
    """Give each row the prompt of another one of the same length and another answer; drop those that find none."""
    found = []
    for i, row in enumerate(rows):
        others = [*rows[i + 1 :], *rows[:i]]
        size = _length(tokenizer, row["prompt"])
        fits = (o for o in others if o["completion"] != row["completion"] and _length(tokenizer, o["prompt"]) == size)
        other = next(fits, None)
        if other:
            found.append({**row, "corrupted_prompt": other["prompt"]})
    return found


TASKS: dict[str, Callable[[Any, str | None], list[Json]]] = {
    "capitals": capitals,
    "sums": sums,
    "indirect object": indirect_object,
}


def answered(rows: list[dict[str, object]], tokenizer: PreTrainedTokenizerBase) -> list[Json]:
    """Rows as token ids, so that no end token is scored beside the one that is asked."""
    made = []
    for row in rows:
        prompt, other = (tokenizer(row[key])["input_ids"] for key in ("prompt", "corrupted_prompt"))
        answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        if len(prompt) == len(other):
            labels = [-100] * len(prompt) + answer
            made.append({"input_ids": prompt + answer, "labels": labels, "corrupted_ids": other + answer})
    return made


def of_shape(rows: int, tokens: int) -> tuple[Task, Task]:
    """Random text of one size, with pairs, and a second set."""
    rng = np.random.default_rng(0)

    def task(seed: int) -> Task:
        made = []
        for _ in range(rows):
            ids, other = (rng.integers(1000, 20000, tokens).tolist() for _ in range(2))
            made.append(
                {"input_ids": ids, "labels": [-100] * (tokens - 1) + ids[-1:], "corrupted_ids": [*other[:-1], ids[-1]]}
            )
        return pairs_of(made, rows)

    return task(0), task(1)


def pairs_of(rows: list[Json], batch_size: int, name: str = "task") -> Task:
    """A Task of ready ids, with corrupted ones."""
    examples = tuple((Tokens(tuple(r["input_ids"]), tuple(r["labels"])),) for r in rows)
    corrupted = tuple((Tokens(tuple(r["corrupted_ids"]), tuple(r["labels"])),) for r in rows)
    return Task(examples, batch_size=batch_size, name=name, corrupted=corrupted)
