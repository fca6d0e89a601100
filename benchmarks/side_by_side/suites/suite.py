"""``Suite``: what is fine-tuned, what may be forgotten, and which runs are wanted. ``Lab``: a suite, loaded."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutput

from guided_ft.callback.certify import fingerprint
from guided_ft.models import load_model, load_tokenizer
from guided_ft.pipeline.evaluate import margins, preference_accuracy, retention
from guided_ft.system.files import digest
from guided_ft.task.answers import answers, exact_match
from guided_ft.task.given import Row
from guided_ft.task.task import Task

from .cell import Campaign, Cell


@dataclass(frozen=True)
class Problem:
    """Something to fine-tune.

    Args:
        rows: ``(number, seed) ->`` training, validation and test rows in TRL's formats; test rows do not depend on the
            number.
        new_tokens: longest answer; 0: pairs, scored by which answer is likelier.
    """

    rows: Callable[[int, int], tuple[list[Row], list[Row], list[Row]]]
    new_tokens: int

    @property
    def is_preference(self) -> bool:
        return not self.new_tokens


@dataclass(frozen=True)
class Suite:
    """One scale of the benchmark.

    Args:
        model: gives the name or folder of the base model, and makes it if it must.
        held_out: ``tokenizer -> Task``: text as the model knew it, on which forgetting is measured.
        old_skills: ``lab, model ->`` 0 to 100: what the model could do before; slow, so only for ``main`` runs.
        campaigns: the runs wanted, in this order.
        examples: to localize with, at most.
        corpora: ``tokenizer -> Task`` by name: more texts, unlike what an arm may keep, to measure forgetting on.
        rewinds: measure shares of each change, too (``rewind``).
        bf16: train and answer under bfloat16 autocast, with float32 weights, as TRL does by default. Maps and losses
            are float32 all the same.
    """

    name: str
    model: Callable[[], str]
    problems: dict[str, Problem]
    held_out: Callable[[Any], Task]
    old_skills: Callable[[Lab, Any], float]
    campaigns: tuple[Campaign, ...]
    batch_size: int
    max_length: int
    examples: int
    corpora: dict[str, Callable[[Any], Task]] = field(default_factory=dict)
    rewinds: bool = False
    bf16: bool = False


class Lab:
    """A suite with its base model in memory, and the measures that all runs share."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.tokenizer = load_tokenizer(suite.model())
        # Loaded weights are a mapped file, and whoever reads them first would be charged for their memory.
        self._base = copy.deepcopy(load_model(suite.model()))
        self._remembered = _Remembered(self._base)
        self._starts: dict[tuple[str, int, int], tuple[float, float]] = {}
        self.text = suite.held_out(self.tokenizer)
        self.maps: dict[Hashable, Any] = {}
        """What was localized, with what it took: one map serves all learning rates, budgets and draws."""

    def model(self) -> Any:
        """The base model, afresh."""
        return copy.deepcopy(self._base)

    def moved(self, model: Any) -> list[torch.Tensor]:
        """The parameters of a model without adapters that are not the base model's any more."""
        base = dict(self._base.named_parameters())
        # A trainer may have moved the model to a GPU, where the base is not.
        return [p for name, p in model.named_parameters() if not torch.equal(p.to(base[name].device), base[name])]

    @cached_property
    def weights(self) -> str:
        """Tells the base model from one that was pre-trained by the same recipe on another processor."""
        return digest(fingerprint(self._base))

    @cached_property
    def base_loss(self) -> float:
        return retention(self._remembered, self.text, progress=False)["loss"]

    @cached_property
    def base_glimpse(self) -> float:
        return retention(self._remembered, self._some_text, progress=False)["loss"]

    @cached_property
    def base_skills(self) -> float:
        return self.old_skills(self._base)

    @property
    def _some_text(self) -> Task:
        return self.text.take(max(1, len(self.text) // 3))

    def task(self, rows: list[Row], name: str) -> Task:
        """Rows as a question to localize with."""
        length = self.suite.max_length
        return Task.from_dataset(rows, self.tokenizer, max_length=length, batch_size=self.suite.batch_size, name=name)

    def score(self, model: Any, problem: Problem, rows: list[Row]) -> float:
        """What is trained for, 0 to 100: exact matches of greedy answers, or pairs that are told apart."""
        if problem.is_preference:
            return preference_accuracy(margins(model, self.task(rows, "pairs")))
        prompts = [row["prompt"] for row in rows]
        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=self.suite.bf16):
            found = answers(model, self.tokenizer, prompts, max_new_tokens=problem.new_tokens, progress=False)
        return exact_match(found, [row["completion"] for row in rows])

    def forgetting(self, model: Any) -> dict[str, float]:
        """Rise of the loss on the held-out text, and KL(base || model) there; nats per token."""
        found = retention(model, self.text, self._ask_base, progress=False)
        return {"forgetting": found["loss"] - self.base_loss, "kl": found["kl"]}

    @cached_property
    def _corpora(self) -> dict[str, tuple[Task, float]]:
        texts = {name: make(self.tokenizer) for name, make in self.suite.corpora.items()}
        return {name: (text, retention(self._base, text, progress=False)["loss"]) for name, text in texts.items()}

    def forgetting_on(self, model: Any) -> dict[str, float]:
        """Rise of the loss on each of the suite's corpora, nats per token."""
        return {
            name: retention(model, text, progress=False)["loss"] - before
            for name, (text, before) in self._corpora.items()
        }

    def glimpse(self, model: Any) -> float:
        """Rise of the loss on a third of the held-out text: cheap enough for looks during training."""
        return retention(model, self._some_text, progress=False)["loss"] - self.base_glimpse

    def start(self, cell: Cell, rows: list[Row]) -> tuple[float, float]:
        """Score and forgetting before the first step, where all arms are the base model."""
        key = cell.task, cell.seed, cell.data_size
        if key not in self._starts:
            self._starts[key] = self.score(self._base, self.suite.problems[cell.task], rows), 0.0
        return self._starts[key]

    def old_skills(self, model: Any) -> float:
        return self.suite.old_skills(self, model)

    @contextlib.contextmanager
    def _ask_base(self) -> Iterator[Any]:
        yield self._remembered


class _Remembered(nn.Module):
    """The base model, which runs its layers once for each batch that it is asked again and again: then only the head.

    For models whose logits are their head's output.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._hidden: dict[bytes, torch.Tensor] = {}

    def get_base_model(self) -> Any:
        """As of a PeftModel: who asks for the window or the vocabulary means the model inside."""
        return self.model

    def forward(self, input_ids: torch.Tensor, **inputs: Any) -> CausalLMOutput:
        key = input_ids.cpu().numpy().tobytes()
        if key not in self._hidden:
            self._hidden[key] = self.model.get_decoder()(input_ids=input_ids, **inputs).last_hidden_state
        return CausalLMOutput(logits=self.model.get_output_embeddings()(self._hidden[key]))
