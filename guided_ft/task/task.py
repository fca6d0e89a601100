"""``Task``: the question that a model is asked, as token ids with labels. Never holds the model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ..errors import GuidedError, pick
from ..system.files import digest, write_text
from .batching import model_inputs, padded
from .fits import check_fits
from .given import Given
from .metrics import Metric, answer_nll, check_metric, logit_difference, metric_name, of_function
from .rows import Example, check_examples, check_pairs, id_rows, num_scored, read_lines, read_rows
from .tokens import IGNORE

if TYPE_CHECKING:
    from transformers import Trainer

    from .tokenizer import Tokenizing


@dataclass(frozen=True, eq=False)
class Task:
    """Examples and their loss.

    Example::

        task = Task.from_dataset(dataset, tokenizer, max_length=256, batch_size=8)
        for batch in task.batches(model.device):
            loss = task.loss(task.quantity(model, batch))  # [examples]

    Args:
        examples: tuples of one sequence (SFT) or two (chosen, rejected); all alike.
        pad_id: token id that fills short sequences up.
        batch_size: examples per batch.
        beta: of the DPO loss, for preference examples.
        name: what to call the task in reports.
        corrupted: the same examples with another prompt, token for token as long, for patching; or None.
        wrong: per example the labels of a wrong answer at the token where it leaves the right one; or None.
        metric: ``loss``; ``logit_diff``, the logit of the right less that of the wrong answer (needs ``wrong``); or a
            function ``(logits [rows, tokens, vocabulary], batch) -> [examples]``, higher is better.
        reference: margins of a DPO reference model per example (nats); None: the model is its own.
        token_mean: every scored token weighs the same, as in the trainers, instead of every example.
        padding: ``right`` or ``left``.
    """

    examples: tuple[Example, ...]
    pad_id: int = 0
    batch_size: int = 8
    beta: float = 0.1
    name: str = "task"
    corrupted: tuple[Example, ...] | None = None
    wrong: tuple[tuple[int, ...], ...] | None = None
    metric: str | Metric = "loss"
    reference: tuple[float, ...] | None = None
    token_mean: bool = False
    padding: str = "right"

    def __post_init__(self) -> None:
        check_metric(self.metric)
        pick({"right": 0, "left": 0}, self.padding, "padding")
        if not self.examples:
            raise GuidedError(f"task {self.name!r}: it has no examples")
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise GuidedError(f"task {self.name!r}: batch_size: expected a number from 1 up, got {self.batch_size!r}")
        check_examples(self.name, self.examples)
        check_pairs(self.name, self.examples, self.corrupted, self.wrong)
        if self.metric == "logit_diff" and self.wrong is None:
            raise GuidedError(f"task {self.name!r}: example 0 has no wrong answer (metric 'logit_diff' needs 'wrong')")

    # -- making one -------------------------------------------------------------------------------------------------
    @classmethod
    def from_dataset(
        cls,
        dataset: Given,
        tokenizer: Tokenizing,
        *,
        max_length: int | None = 1024,
        batch_size: int = 8,
        beta: float = 0.1,
        name: str = "task",
        metric: str | Metric = "loss",
    ) -> Task:
        """Tokenize rows in TRL's formats, the way TRL's trainers do.

        Rows: ``prompt`` + ``completion`` (only the completion is scored), ``prompt`` + ``chosen`` + ``rejected``,
        ``messages``, ``text``, or ready ``input_ids`` (+ ``labels``). Prompts and answers may be strings or lists of
        messages. Sequences are cut at ``max_length`` tokens, as the trainers do, and rows of which that leaves no
        answer are left out; both are counted and told. Rows with a prompt may add ``corrupted_prompt`` (as many
        tokens as the prompt) and ``wrong`` (a wrong completion).

        Args:
            dataset: anything that yields rows; a DatasetDict is taken for its only split, or ``train``.
            tokenizer: also a processor that holds one, or the name of a model.

        Raises:
            GuidedError: for what has no rows or is no tokenizer; for a row, by its number, in no known format, without
                answer tokens, or with a corrupted prompt of another length; if ``max_length`` leaves no row.
        """
        fields = read_rows(dataset, tokenizer, max_length, name)
        return cls(batch_size=batch_size, beta=beta, name=name, metric=metric, **fields)

    @classmethod
    def from_trainer(cls, trainer: Trainer, count: int = 64) -> Task:
        """Take the loss of a ``Trainer``, ``SFTTrainer`` or ``DPOTrainer`` on the first examples it trains on.

        The examples are the trainer's own, tokenized, masked and cut by its collator; packed ones are taken apart.
        The mean of the Task's loss over all of them is ``trainer.compute_loss`` on them as one batch: the mean over
        tokens (SFT), or the DPO loss against the trainer's reference (which is asked here, once).

        Args:
            count: how many examples of ``trainer.train_dataset`` (or packed rows of it).

        Raises:
            GuidedError: for a loss that a Task cannot compute (another DPO variant, a ``compute_loss`` of one's own).
        """
        from .from_trainer import read_trainer, reference_margins

        task = cls(**read_trainer(trainer, count))
        return replace(task, reference=reference_margins(trainer, task, count)) if task.is_preference else task

    @classmethod
    def load(cls, path: str | os.PathLike[str], tokenizer: Tokenizing = None, **options: Any) -> Task:
        """Read rows from a JSON-lines file (or lines of plain text from a ``.txt`` file).

        What ``save`` wrote needs no tokenizer. Options as in ``from_dataset``.
        """
        rows = read_lines(path)
        return cls.from_dataset(rows, tokenizer, **{"name": os.path.basename(os.fspath(path)), **options})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the token ids as JSON lines, one example per line."""
        rows = id_rows(self.examples, self.corrupted, self.wrong)
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))

    def take(self, count: int) -> Task:
        """The first ``count`` examples."""
        return self.part(range(min(count, len(self))))

    def part(self, indices: Iterable[int]) -> Task:
        """The examples with these indices."""
        chosen = list(indices)
        columns = {name: getattr(self, name) for name in ("examples", "corrupted", "wrong", "reference")}
        parts: dict[str, Any] = {k: v and tuple(v[i] for i in chosen) for k, v in columns.items()}
        return replace(self, **parts)

    def check(self, model: torch.nn.Module) -> None:
        """Raise GuidedError, with the example's index, if an example does not fit into the model."""
        check_fits(model, self.name, self.examples, self.corrupted, self.wrong)

    # -- reading ----------------------------------------------------------------------------------------------------
    @property
    def hash(self) -> str:
        """Digest of the examples and of what their loss depends on."""
        more = {
            "corrupted": self.corrupted and [[s.ids for s in e] for e in self.corrupted],
            "wrong": self.wrong,
            "metric": None if self.metric == "loss" else metric_name(self.metric),
            "reference": self.reference and [round(margin, 4) for margin in self.reference],
            "token_mean": self.token_mean,
        }
        return digest(
            [[(s.ids, s.labels) for s in e] for e in self.examples],
            self.beta if self.is_preference else 0,
            *([{k: v for k, v in more.items() if v}] if any(more.values()) else []),
        )

    @property
    def digests(self) -> list[str]:
        """Digest of each example's text (the chosen one), whatever is asked about it."""
        return [digest(example[0].ids) for example in self.examples]

    @property
    def is_preference(self) -> bool:
        return len(self.examples[0]) == 2

    def __len__(self) -> int:
        return len(self.examples)

    def __repr__(self) -> str:
        kind = "preference pairs" if self.is_preference else "examples"
        return f"Task({self.name!r}: {len(self)} {kind}, {num_scored(self.examples):,} scored tokens, {self.hash})"

    def num_batches(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def batches(self, device: torch.device | str = "cpu") -> Iterator[dict[str, torch.Tensor]]:
        """Yield padded ``input_ids``, ``attention_mask``, ``labels``, each ``[rows, tokens]``.

        Rows are examples; for preferences first all chosen, then all rejected sequences. Where the task has them:
        ``corrupted_ids`` and ``wrong`` ``[rows, tokens]``, ``reference`` ``[examples]``. Left-padded batches have
        ``position_ids``, which count from the first real token.
        """
        for start in range(0, len(self.examples), self.batch_size):
            part = slice(start, start + self.batch_size)
            batch = padded(
                self.examples[part],
                self.corrupted and self.corrupted[part],
                self.wrong and self.wrong[part],
                self.reference and self.reference[part],
                pad_id=self.pad_id,
                padding=self.padding,
            )
            yield {name: tensor.to(device) for name, tensor in batch.items()}

    # -- asking -----------------------------------------------------------------------------------------------------
    def quantity(self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What the loss is made of, per example ``[examples]``; logits are computed only where it needs them.

        SFT: mean negative log-likelihood of the answer tokens (nats). Preferences: log-probability of the chosen
        answer less that of the rejected one, and less the reference's where there is one (nats). With another
        ``metric``: the metric.
        """
        if callable(self.metric):
            logits = model(**model_inputs(batch), use_cache=False).logits.float()
            return of_function(self.metric, logits, batch, len(logits) // len(self.examples[0]))
        columns, labels = self.scored_columns(batch), batch["labels"][:, 1:]
        logits = model(**model_inputs(batch), use_cache=False, logits_to_keep=columns).logits.float()
        labels = labels[:, columns]
        if self.metric == "logit_diff":
            return logit_difference(logits, labels, batch["wrong"][:, 1:][:, columns])
        nll = answer_nll(logits, labels)
        if self.is_preference:
            chosen, rejected = nll.chunk(2)
            return rejected - chosen - batch.get("reference", 0)
        return nll / (num_scored(self.examples) / len(self) if self.token_mean else (labels != IGNORE).sum(1))

    def scored_columns(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Positions whose logits the quantity needs, ascending: ``[columns]``. A metric of one's own needs all."""
        labels = batch["labels"][:, 1:]
        if callable(self.metric):
            return torch.arange(batch["labels"].shape[1], device=labels.device)
        wanted = labels if "wrong" not in batch else labels.maximum(batch["wrong"][:, 1:])
        return (wanted != IGNORE).any(0).nonzero()[:, 0]

    @property
    def first_scored(self) -> int:
        """The lowest position whose logits any example needs."""
        answers = [*(s.labels for e in self.examples for s in e), *(self.wrong or ())]
        return min(next(i for i, label in enumerate(labels) if label != IGNORE and i) for labels in answers) - 1

    def loss(self, quantity: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
        """The loss per example ``[examples]`` (nats).

        SFT: the quantity itself. Preferences: DPO, ``-log sigmoid(beta (quantity - reference))`` (Rafailov et al.
        2023, arXiv 2305.18290, eq. 7), with the model as its own reference unless the task has one or one is given.
        Another ``metric``: less the metric, so that lower is better.
        """
        if self.metric != "loss":
            return -quantity
        if not self.is_preference:
            return quantity
        if self.reference is not None:
            return -F.logsigmoid(self.beta * quantity)
        reference = quantity.detach() if reference is None else reference
        return -F.logsigmoid(self.beta * (quantity - reference))

    def per_example(self, values: torch.Tensor) -> torch.Tensor:
        """Sum what belongs to one example: ``[rows, ...] -> [examples, ...]``."""
        return values.unflatten(0, (2, -1)).sum(0) if self.is_preference else values
