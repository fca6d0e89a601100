"""The testbed's model: a small llama, pre-trained here from scratch on procedural skills and text, once."""

from __future__ import annotations

import itertools
import math
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guided_ft.system.files import digest
from guided_ft.system.places import cached
from guided_ft.system.progress import track
from guided_ft.task.task import Task

from . import skills
from .cell import Campaign
from .suite import Lab, Problem, Suite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SIZES = {
    # 3.2 million parameters: a fine-tuning run takes seconds.
    "testbed": {"hidden": 192, "layers": 8, "heads": 6, "kv_heads": 3, "neurons": 512, "steps": 2500},
    # For proving that the machinery works, not for figures.
    "quick": {"hidden": 64, "layers": 4, "heads": 4, "kv_heads": 2, "neurons": 128, "steps": 150},
}
LENGTH = 128
"""Tokens of a pre-training row."""
ROWS = 16
"""Rows of a pre-training batch."""
RATE = 3e-3
SEED = 0
END = "\n"

_SYMBOLS = string.ascii_letters + string.digits + " +-=."


def folder(size: str = "testbed", rows: Path | None = None) -> Path:
    """Where the pre-trained model is kept: made on first use, the same for the same recipe.

    Args:
        rows: folder of the rows. A model that lies there is taken before one is made: another processor would end at
            other weights, and runs of different weights cannot be compared.
    """
    recipe = digest([SIZES[size], LENGTH, ROWS, RATE, SEED, _SYMBOLS, *itertools.islice(_lines(), 200)])[:12]
    name = f"{size}-{recipe}"
    if rows is not None and (rows / name).is_dir():
        return rows / name

    def make(target: Path) -> None:
        from transformers.utils import logging

        logging.disable_progress_bar()
        tokenizer = make_tokenizer()
        # In half precision it is small enough to lie beside the rows.
        _pretrain(size, tokenizer).half().save_pretrained(target)
        tokenizer.save_pretrained(target)

    return cached(name, make)


def make_tokenizer() -> Any:
    """A token a character; a line end is the end of text and the padding."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {symbol: i for i, symbol in enumerate([END, *_SYMBOLS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, unk_token=" ")


def _lines() -> Iterator[str]:
    rng = random.Random(SEED)
    while True:
        yield skills.mixture(rng) + END


def _pretrain(size: str, tokenizer: PreTrainedTokenizerBase) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = SIZES[size]
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape["hidden"],
        intermediate_size=shape["neurons"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    steps = shape["steps"]

    def rate(step: int) -> float:
        return min((step + 1) / 100, 0.5 * (1 + math.cos(math.pi * step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    lines = _lines()
    held: list[int] = []
    for _ in track(range(steps), steps, "pre-training the testbed's model"):
        while len(held) < ROWS * LENGTH:
            held += tokenizer(next(lines))["input_ids"]
        ids, held = torch.tensor(held[: ROWS * LENGTH]).view(ROWS, LENGTH), held[ROWS * LENGTH :]
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


# -- the suite --------------------------------------------------------------------------------------------------------
def suite(size: str = "testbed", campaigns: tuple[Campaign, ...] = (), rows: Path | None = None) -> Suite:
    """Fine-tune on new skills; what may be forgotten are the old ones, and text. ``rows``: see ``folder``."""
    return Suite(
        name="testbed",
        model=lambda: str(folder(size, rows)),
        problems={name: Problem(_rows(name), new_tokens=8) for name in skills.NEW},
        held_out=_held_out,
        old_skills=_old_skills,
        campaigns=campaigns or CAMPAIGNS,
        batch_size=16,
        max_length=64,
        examples=128,
    )


def _rows(name: str) -> Callable[[int, int], Any]:
    return lambda count, seed: skills.split(name, count, 100, seed)


def _held_out(tokenizer: PreTrainedTokenizerBase) -> Task:
    rng = random.Random("held out")
    texts = [skills.mixture(rng) for _ in range(300)]
    # Long beside long, within each third: less padding to compute, and a third still stands for the whole.
    thirds = [sorted(texts[i : i + 100], key=len) for i in range(0, 300, 100)]
    rows = [{"text": text} for third in thirds for text in third]
    return Task.from_dataset(rows, tokenizer, batch_size=25, name="old skills and text")


def _old_skills(lab: Lab, model: PreTrainedModel) -> float:
    problem = next(iter(lab.suite.problems.values()))
    found = [lab.score(model, problem, skills.rows(name, 40, seed=-1)) for name in skills.OLD]
    return sum(found) / len(found)


_TASKS = tuple(skills.NEW)
_THREE = ("next_upper", "later", "capitals")

CAMPAIGNS = (
    # The question users ask, at a budget at which slices of so small a model can learn.
    Campaign(_TASKS, ("base", "full", "lora", "guided:rank", "random:rank", "guided:two-sided", "random"), (1.0,)),
    # Some tasks are learned in attention.
    Campaign(_TASKS, ("guided:rank-heads", "random:rank-heads"), (1.0,)),
    # Which map, beside the controls.
    Campaign(
        ("next_upper", "later"),
        (
            *("guided:one-sided", "guided:attribution", "guided:natural-gain", "guided:coherence", "guided:fisher"),
            *("shuffled", "bottom", "wrong-task", "magnitude", "guided:late", "random:late", "lora:qv"),
        ),
        (1.0,),
        draws=1,
    ),
    Campaign(_TASKS, ("guided:natural-gain", "guided:fisher", "guided:one-sided", "guided:coherence"), (1.0,)),
    # What the default recipe is meant to reach.
    Campaign(_TASKS, ("guided", "lora"), (0.3,)),
    # The scorer that won: is it its units, or its layers? And fewer draws may flatter it.
    Campaign(_TASKS, ("shuffled:natural-gain",), (1.0,)),
    Campaign(_TASKS, ("random", "shuffled:natural-gain"), (1.0,), draws=5),
    # The peers.
    Campaign(
        ("next_upper", "later"),
        ("lisa", "hft", "badam", "top-layers", "rslora", "dora", "shira", "ia3", "guided:freeze", "guided:lora"),
        (1.0,),
    ),
    # Fewer parameters or examples, and more.
    Campaign(_TASKS, ("guided:natural-gain", "random"), (0.1,)),
    Campaign(_TASKS, ("guided:natural-gain", "random"), (1.0,), (50,)),
    # Of what the default may choose, at random.
    Campaign(_TASKS, ("random:default",)),
    # Long runs, where forgetting is real.
    Campaign(_THREE, ("full", "lora", "guided:natural-gain", "random"), (1.0,), (1000,), steps=600),
    # Where a map pays: budgets by data sizes. One neuron is 0.018 % of so small a model.
    Campaign(_TASKS, ("guided:natural-gain", "random"), (0.3, 3.0)),
    Campaign(_THREE, ("guided:natural-gain", "random"), (0.03,)),
    Campaign(_TASKS, ("guided:natural-gain", "random"), (1.0,), (1000, 100)),
    Campaign(_THREE, ("guided:natural-gain", "random"), (0.1, 0.3, 3.0), (50, 1000)),
)

QUICK = (Campaign(("later",), ("base", "full", "lora", "guided", "random"), (2.0,), (50,), (1,), 2, steps=8, rates=1),)
"""Proves that everything runs, and no more."""
