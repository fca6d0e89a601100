"""Suites that run every rate on every seed, so that arms are compared by their fronts of score against forgetting.

Score alone picks rates that wreck the rest. The primary figure, fixed before the runs: test score at a forgetting of at
most 0.1 nats, where the rate is picked by validation score and by the loss on an encyclopedia (the testbed: on its own
text); what is forgotten is told on corpora that no rate was picked by.
"""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guided_ft.errors import GuidedError
from guided_ft.system.files import read_text
from guided_ft.task import Task

from . import skills
from . import smollm2 as real
from . import testbed as small
from .cell import Campaign
from .suite import Suite
from .traits import traits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CORE = ("directions", "directions:random", "lora", "full")
PRIMARY = (*CORE, "full:mixed")

SIZED = ("directions", "directions:random", "lora")
"""Arms that a budget sizes."""

PEERS = ("rslora", "corda", "eva", "lora:olora", "lora:pissa", "lora:mica", "oft", "shira", "lisa")

LATE = ("directions:late",)

EXTRAS = ("directions:moving", "directions:redrawn", "directions:outward")

UNITS = ("guided:two-sided", "random", "guided:aside")

CONTROLS = ("directions:one-sided", "directions:shuffled", "directions:even", "directions:random-even")


def testbed(rows: Path | None, quick: bool) -> Suite:
    """The small model: three rates of the core arms on every seed first, then all rates, controls and budgets."""
    tasks = tuple(skills.NEW)
    campaigns = tuple(
        Campaign(tasks, CORE, (3.0,), seeds=(seed,), draws=1, rates=3, front=True) for seed in range(1, 6)
    )
    campaigns += (Campaign(tasks, PRIMARY, (3.0,), seeds=(1, 2, 3, 4, 5), draws=1, front=True),)
    campaigns += (
        Campaign(tasks, (*LATE, *CONTROLS), (3.0,), draws=1, front=True),
        Campaign(tasks, (*EXTRAS, *UNITS), (3.0,), seeds=(1,), draws=1, front=True),
        Campaign(tasks, PEERS, (3.0,), draws=1, front=True),
        Campaign(tasks, SIZED, (1.0, 10.0), draws=1, front=True),
        Campaign(tasks, SIZED, (3.0,), (50,), draws=1, front=True),
    )
    if quick:
        campaigns = (Campaign(("later",), PRIMARY, (10.0,), (50,), (1,), 1, steps=4, rates=1, front=True),)
    base = small.suite("quick" if quick else "testbed", campaigns, rows)
    corpora = {name: _skill(name) for name in ("copy", "sort", "add")}
    return replace(base, name="testbed-fronts", corpora=corpora, rewinds=True)


def smollm2(data: Path | None, quick: bool) -> Suite:
    """The real model, on facts, sums, pairs of sums and traits.

    Args:
        data: folder with ``relations``, ``persona``, ``gsm8k/test.jsonl`` and ``oasst/en_100_tree.jsonl``.
    """
    if data is None:
        raise GuidedError("bench smollm2-fronts: give --data, a folder with relations, persona, gsm8k and oasst")
    tasks, seeds = ("facts", "sums", "sum_pairs"), (1, 2, 3, 4, 5)
    campaigns = tuple(
        Campaign((task,), arms, (3.0,), seeds=(seed,), draws=1, steps=100, rates=rates, front=True)
        for arms, rates in ((CORE, 3), (PRIMARY, None))
        for seed in seeds
        for task in tasks
    )
    campaigns += (
        Campaign(("facts", "sums", "traits"), SIZED, (10.0,), seeds=seeds, draws=1, steps=100, front=True),
        Campaign(("traits",), ("full", "full:mixed"), seeds=seeds, draws=1, steps=100, front=True),
        Campaign(("facts",), (*SIZED, "full"), (10.0,), (50,), draws=1, steps=100, front=True),
        Campaign(("facts", "sums"), LATE, (3.0,), draws=1, steps=100, rates=3, front=True),
        Campaign(("facts", "sums"), CONTROLS, (3.0,), draws=1, steps=100, front=True),
        Campaign(("facts", "sums"), PEERS, (3.0,), draws=1, steps=100, front=True),
        Campaign(("facts", "sums"), SIZED, (1.0,), draws=1, steps=100, front=True),
    )
    if quick:
        campaigns = (Campaign(("sums",), PRIMARY, (3.0,), (16,), (1,), 1, steps=3, rates=1, front=True),)
    corpora: dict[str, Callable[[Any], Task]] = {
        "maths": lambda tokenizer: _texts(tokenizer, _maths(data), "school maths"),
        "chat": lambda tokenizer: _texts(tokenizer, _chat(data), "chat"),
        "code": lambda tokenizer: _texts(tokenizer, _code(), "Python code"),
    }
    base = real.suite(data, campaigns)
    problems = base.problems | {"traits": traits(data / "persona")}
    return replace(base, name="smollm2-fronts", problems=problems, corpora=corpora, bf16=True)


def _skill(name: str) -> Callable[[Any], Task]:
    def make(tokenizer: PreTrainedTokenizerBase) -> Task:
        return Task.from_dataset(skills.rows(name, 100, seed=-2), tokenizer, batch_size=25, name=name)

    return make


def _texts(tokenizer: PreTrainedTokenizerBase, texts: list[str], name: str, count: int = 32) -> Task:
    random.Random(0).shuffle(texts)
    rows = [{"text": text} for text in texts[:count]]
    return Task.from_dataset(rows, tokenizer, max_length=96, batch_size=16, name=name)


def _maths(data: Path) -> list[str]:
    """Questions and worked answers of GSM8K (arXiv 2110.14168)."""
    rows = [json.loads(line) for line in _lines(data / "gsm8k" / "test.jsonl") if '"answer"' in line]
    return [f"{row['question']}\n{row['answer']}" for row in rows]


def _chat(data: Path) -> list[str]:
    """First questions and answers of OpenAssistant conversations (arXiv 2304.07327)."""
    trees = [json.loads(line)["prompt"] for line in _lines(data / "oasst" / "en_100_tree.jsonl")]
    return [f"{tree['text']}\n{tree['replies'][0]['text']}" for tree in trees if tree.get("replies")]


def _code() -> list[str]:
    """Functions of Python's standard library."""
    import argparse
    import calendar
    import shutil
    import statistics
    import textwrap

    found = []
    for module in (argparse, calendar, shutil, statistics, textwrap):
        members = [m for m in vars(module).values() if inspect.isfunction(m) and m.__module__ == module.__name__]
        found += [inspect.getsource(m) for m in members]
    return [source for source in found if len(source) > 200]


def _lines(path: Path) -> list[str]:
    return [line for line in read_text(path).splitlines() if line.strip()]
