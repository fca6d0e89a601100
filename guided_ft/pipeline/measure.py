"""What is measured before and after, by the rows: right answers, labels, preferences, or the loss of open text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from ..errors import GuidedError
from ..system.files import Json
from ..task import measures
from ..task.reader import asked
from . import standard
from .results import Reference
from .retained import load_text

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..recipe.recipe import Recipe
    from ..task.task import Task
    from .results import Measured

RETAIN_SEED = 1_000_000
"""Added to the recipe's seed for the held-out text, so that retention is never measured on the text localized with."""

HELD_OUT = "held_out.jsonl"

OPEN = 64
"""Answers of more tokens are open text: no two are the same, so their loss is measured."""

LABELS = 20
"""So many different answers at most are labels, if each comes up four times on average."""

SAMPLES = 5


class Examined(Protocol):
    """What measuring needs of a run (``stages.Run``)."""

    recipe: Recipe
    folder: Path

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def rows(self) -> tuple[list[dict], list[dict]]: ...
    @property
    def expected(self) -> list[str]: ...
    @property
    def answer_length(self) -> int: ...
    def question(self, row: Json) -> Json: ...
    def model(self) -> PreTrainedModel: ...
    def task(self, rows: list[dict], batch_size: int, name: str = "") -> Task: ...


class Held:
    """Test rows and the model that is asked about them; each thing is worked out once, when a metric needs it."""

    def __init__(self, run: Examined, rows: list[Json], model: nn.Module, reference: Reference | None = None) -> None:
        self.run, self.rows, self.model, self.reference = run, rows, model, reference
        self.batch_size = run.recipe.evaluate.batch_size
        self._found: list[str] = []

    @property
    def task(self) -> Task:
        return self.run.task(self.rows, self.batch_size)

    def found(self, count: int) -> list[str]:
        """The model's own answers to the first ``count`` questions."""
        from ..task.answers import answers

        more = self.rows[len(self._found) : count]
        if more and all(asked(row) is not None for row in more):
            prompts = [self.run.question(row) for row in more]
            length = self.run.answer_length
            self._found += answers(
                self.model, self.run.tokenizer, prompts, max_new_tokens=length, batch_size=self.batch_size
            )
        return self._found[:count]

    @cached_property
    def labels(self) -> list[str]:
        """The label of each row that the model finds likeliest."""
        from .choices import likeliest

        known = labels_of(self.run)
        tasks = [self.run.task([{**row, "completion": label} for row in self.rows], self.batch_size) for label in known]
        return [known[i] for i in likeliest(self.model, tasks)]

    @cached_property
    def margins(self) -> torch.Tensor:
        """Of each pair, by how much the model finds the chosen answer likelier."""
        from .evaluate import margins

        return margins(self.model, self.task)

    @cached_property
    def base_margins(self) -> torch.Tensor | None:
        """The same of the base model; None: it is the one that is asked."""
        from .evaluate import margins

        if self.reference is None:
            return None
        with self.reference() as base:
            return margins(base, self.task)


def _exact(held: Held) -> float:
    from ..task.answers import exact_match

    return exact_match(held.found(len(held.rows)), held.run.expected, held.run.tokenizer.all_special_tokens)


def _number(held: Held) -> float:
    from ..task.answers import number_accuracy

    return number_accuracy(held.found(len(held.rows)), held.run.expected)


def _label(held: Held) -> float:
    from ..task.answers import exact_match

    return exact_match([label.strip() for label in held.labels], held.run.expected)


def _f1(held: Held) -> float:
    from ..task.answers import macro_f1

    return macro_f1(held.labels, [row["completion"] for row in held.rows])


def _loss(held: Held) -> float:
    from .evaluate import retention

    return retention(held.model, held.task)["loss"]


def _preference(held: Held) -> float:
    from .evaluate import preference_accuracy

    return preference_accuracy(held.margins)


def _reward(held: Held) -> float:
    from .evaluate import reward_accuracy

    return reward_accuracy(held.margins, held.base_margins)


METRICS: dict[str, tuple[str, Callable[[Held], float]]] = {
    "exact_match": ("questions", _exact),
    "number_accuracy": ("questions", _number),
    "label_accuracy": ("labels", _label),
    "f1": ("labels", _f1),
    "loss": ("answers", _loss),
    "preference_accuracy": ("pairs", _preference),
    "reward_accuracy": ("pairs", _reward),
}
"""Every metric by name (``evaluate.metric``): what the rows must be, and what measures it."""

assert set(METRICS) == set(measures.SHIPPED)


def _measuring(name: str) -> tuple[str, Callable[[Held], float]]:
    """A metric of the table, or one's own."""

    def own(held: Held) -> float:
        right = [text.strip() for text in held.run.expected]
        return measures.measured(name, held.found(len(held.rows)), right)

    return METRICS.get(name) or ("questions", own)


def metrics_of(run: Examined) -> tuple[str, ...]:
    """The metrics of a recipe, or those that suit its rows; the verdict goes by the first."""
    wanted = run.recipe.evaluate.metric
    if wanted != "auto":
        return tuple(wanted.split("+"))
    kinds, short = _kinds(run), run.answer_length <= OPEN
    if "pairs" in kinds:
        return ("preference_accuracy", "exact_match") if short else ("reward_accuracy", "preference_accuracy")
    if "labels" in kinds and run.recipe.data.source != "reasoning_gym":
        return ("label_accuracy", "f1", "exact_match")
    return ("exact_match",) if "questions" in kinds and short else ("loss",)


def labels_of(run: Examined) -> list[str]:
    """The different answers of all rows, in order."""
    return sorted({row["completion"] for part in run.rows for row in part if isinstance(row.get("completion"), str)})


def check_metrics(run: Examined, rows: Sequence[Json]) -> None:
    """Raise GuidedError for a metric that these rows do not have."""
    kinds = _kinds(run)
    for name in metrics_of(run) if rows else ():
        need = _measuring(name)[0]
        if need not in kinds:
            known = " or ".join(k for k, (kind, _) in METRICS.items() if kind in kinds)
            what = {
                "questions": "a prompt",
                "labels": f"at most {LABELS} different answers",
                "pairs": "chosen and rejected",
            }
            raise GuidedError(
                f"evaluate.metric: {name} needs rows with {what.get(need, 'an answer to learn')} (write auto, {known})"
            )


def _kinds(run: Examined) -> set[str]:
    """What the rows are, for metrics."""
    train, test = run.rows
    first = (test or train)[0]
    kinds = {"pairs"} if "chosen" in first else {"answers"}
    if all(asked(row) is not None for row in test or train):
        kinds.add("questions")
    labels = labels_of(run)
    if 2 <= len(labels) <= LABELS and len(train) + len(test) >= 4 * len(labels) and "completion" in first:
        kinds.add("labels")
    return kinds


def measure(run: Examined, rows: list[Json], model: nn.Module, reference: Reference | None) -> Measured:
    """``scores`` (metrics and the number of examples), ``retention``, and the first ``answers``."""
    from .evaluate import retention

    held = Held(run, rows, model, reference)
    scores: Json = {name: _measuring(name)[1](held) for name in metrics_of(run)} if rows else {}
    scores |= standard.evaluate(model, run.tokenizer, run.recipe)
    text = _held_out_text(run, model if reference is None else None)
    kept = retention(model, text, reference) if text is not None else None
    return {"scores": scores | {"examples": len(rows)}, "retention": kept, "answers": held.found(SAMPLES)}


def _held_out_text(run: Examined, base: nn.Module | None) -> Task | None:
    """The text that retention is measured on: sampled once by the base model, or the user's own.

    Args:
        base: the base model, if it is at hand.
    """
    from ..scorers.self_text import self_text
    from ..task.task import Task

    settings = run.recipe.evaluate
    if settings.retention == "none":
        return None
    if settings.retention != "self":
        seed = run.recipe.seed + RETAIN_SEED
        text = load_text(settings.retention, run.tokenizer, settings.retention_tokens, 8, seed)
        return text.take(settings.retention_examples)
    path = run.folder / HELD_OUT
    if not path.exists():
        text = self_text(
            run.model() if base is None else base,
            num_examples=settings.retention_examples,
            num_tokens=settings.retention_tokens,
            seed=run.recipe.seed + RETAIN_SEED,
        )
        text.save(path)
    return Task.load(path, name="self")
