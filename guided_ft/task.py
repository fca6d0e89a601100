"""``Task``: the question that a model is asked, as token ids with labels. Never holds the model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from .artifact import digest, read_text, write_text
from .errors import GuidedError, pick
from .formats import IGNORE, Tokens, read_row

Example = tuple[Tokens, ...]
"""One sequence (SFT), or the chosen and the rejected one (preferences)."""


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
        padding_side: where short sequences are filled up; scores do not depend on it.
    """

    examples: tuple[Example, ...]
    pad_id: int = 0
    batch_size: int = 8
    beta: float = 0.1
    name: str = "task"
    padding_side: str = "right"

    def __post_init__(self) -> None:
        pick({"left": 0, "right": 0}, self.padding_side, "padding_side")
        if not self.examples:
            raise GuidedError(f"task {self.name!r}: it has no examples")
        for i, example in enumerate(self.examples):
            if len(example) != len(self.examples[0]):
                raise GuidedError(f"task {self.name!r}: example {i} mixes SFT and preference rows (use one format)")
            for sequence in example:
                if all(label == IGNORE for label in sequence.labels[1:]):
                    raise GuidedError(
                        f"task {self.name!r}: example {i} has no answer tokens left (is the completion empty, or "
                        "max_length too short?)"
                    )

    # -- making one -------------------------------------------------------------------------------------------------
    @classmethod
    def from_dataset(
        cls,
        dataset: Iterable[Mapping[str, Any]],
        tokenizer: Any,
        *,
        max_length: int | None = 1024,
        batch_size: int = 8,
        beta: float = 0.1,
        name: str = "task",
    ) -> Task:
        """Tokenize rows in TRL's formats, the way TRL's trainers do.

        Rows: ``prompt`` + ``completion`` (only the completion is scored), ``prompt`` + ``chosen`` + ``rejected``,
        ``messages``, ``text``, or ready ``input_ids`` (+ ``labels``). Prompts and answers may be strings or lists of
        messages. Sequences are cut at ``max_length`` tokens.

        Raises:
            GuidedError: for a row in no known format, or without answer tokens; it names the row.
        """
        examples = []
        for i, row in enumerate(dataset):
            try:
                example = read_row(row, tokenizer)
            except GuidedError as error:
                raise GuidedError(f"task {name!r}: row {i}: {error}") from None
            examples.append(tuple(Tokens(s.ids[:max_length], s.labels[:max_length]) for s in example))
        pad = getattr(tokenizer, "pad_token_id", None)
        if pad is None:
            pad = getattr(tokenizer, "eos_token_id", None) or 0
        return cls(tuple(examples), pad, batch_size, beta, name)

    @classmethod
    def load(cls, path: str | os.PathLike[str], tokenizer: Any = None, **options: Any) -> Task:
        """Read rows from a JSON-lines file (or lines of plain text from a ``.txt`` file).

        What ``save`` wrote needs no tokenizer. Options as in ``from_dataset``.
        """
        text = read_text(path)
        if str(path).endswith(".txt"):
            rows: list[Any] = [{"text": line} for line in text.splitlines() if line.strip()]
        else:
            rows = []
            for number, line in enumerate(text.splitlines(), 1):
                try:
                    row = json.loads(line) if line.strip() else None
                except (ValueError, RecursionError):
                    row = line
                if row is not None and not isinstance(row, dict):
                    raise GuidedError(f"{path}:{number}: not a JSON object (write one object per line)")
                rows += [row] if row else []
        return cls.from_dataset(rows, tokenizer, **{"name": os.path.basename(os.fspath(path)), **options})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the token ids as JSON lines, one example per line."""
        rows = [
            {"input_ids": e[0].ids, "labels": e[0].labels}
            | ({"rejected_ids": e[1].ids, "rejected_labels": e[1].labels} if len(e) > 1 else {})
            for e in self.examples
        ]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))

    def take(self, count: int) -> Task:
        """The first ``count`` examples."""
        return replace(self, examples=self.examples[:count])

    # -- reading ----------------------------------------------------------------------------------------------------
    @property
    def hash(self) -> str:
        """Digest of the examples and of what their loss depends on."""
        return digest([[(s.ids, s.labels) for s in e] for e in self.examples], self.beta if self.is_preference else 0)

    @property
    def is_preference(self) -> bool:
        return len(self.examples[0]) == 2

    def __len__(self) -> int:
        return len(self.examples)

    def __repr__(self) -> str:
        tokens = sum(label != IGNORE for e in self.examples for s in e for label in s.labels[1:])
        kind = "preference pairs" if self.is_preference else "examples"
        return f"Task({self.name!r}: {len(self)} {kind}, {tokens:,} scored tokens, {self.hash})"

    def num_batches(self) -> int:
        return -(-len(self.examples) // self.batch_size)

    def batches(self, device: torch.device | str = "cpu") -> Iterator[dict[str, torch.Tensor]]:
        """Yield padded ``input_ids``, ``attention_mask``, ``labels``, each ``[rows, tokens]``.

        Rows are examples; for preferences first all chosen, then all rejected sequences. Padded on the left, they
        come with ``position_ids``.
        """
        for start in range(0, len(self.examples), self.batch_size):
            part = self.examples[start : start + self.batch_size]
            rows = [sequence for column in zip(*part, strict=True) for sequence in column]
            yield {name: tensor.to(device) for name, tensor in pad_rows(rows, self.pad_id, self.padding_side).items()}

    # -- asking -----------------------------------------------------------------------------------------------------
    def quantity(self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What the loss is made of, per example ``[examples]``.

        SFT: mean negative log-likelihood of the answer tokens (nats). Preferences: log-probability of the chosen
        answer less that of the rejected one (nats).
        """
        out = model(**inputs(batch), use_cache=False)
        labels = batch["labels"][:, 1:]
        logits = out.logits[:, :-1].float()
        nll = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none").sum(1)
        if self.is_preference:
            chosen, rejected = nll.chunk(2)
            return rejected - chosen
        return nll / (labels != IGNORE).sum(1)

    def loss(self, quantity: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
        """The loss per example ``[examples]`` (nats).

        SFT: the quantity itself. Preferences: DPO, ``-log sigmoid(beta (quantity - reference))`` (Rafailov et al.
        2023, arXiv 2305.18290, eq. 7), with the model as its own reference unless one is given.
        """
        if not self.is_preference:
            return quantity
        reference = quantity.detach() if reference is None else reference
        return -F.logsigmoid(self.beta * (quantity - reference))

    def per_example(self, values: torch.Tensor) -> torch.Tensor:
        """Sum what belongs to one example: ``[rows, ...] -> [examples, ...]``."""
        return values.unflatten(0, (2, -1)).sum(0) if self.is_preference else values


def inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The part of a batch that a model takes."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}


def pad_rows(rows: Sequence[Tokens], pad_id: int, side: str = "right") -> dict[str, torch.Tensor]:
    """Pad sequences to one length: ``input_ids``, ``attention_mask``, ``labels`` ``[rows, tokens]``.

    Padded on the left, they need ``position_ids`` too: a model with learned positions would count the padding.
    """
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad_id)
    labels = torch.full((len(rows), length), IGNORE)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(length - len(row.ids), None) if side == "left" else slice(len(row.ids))
        ids[i, place] = torch.tensor(row.ids)
        labels[i, place] = torch.tensor(row.labels)
        mask[i, place] = 1
        if side == "left":
            labels[i, length - len(row.ids)] = IGNORE  # nothing but padding stands before it to predict it from
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return batch | ({"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if side == "left" else {})
