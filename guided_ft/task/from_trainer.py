"""Read a trainer's own loss as a Task: its tokenized examples, its masks, its reference."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import GuidedError
from ..system.eval_mode import evaluating
from .tokens import IGNORE, Tokens

if TYPE_CHECKING:
    from transformers import Trainer

_PLAIN: dict[str, Any] = {"loss_type": "nll", "label_smoother": None, "compute_loss_func": None}
_DPO: dict[str, Any] = {
    "loss_types": ["sigmoid"],
    "loss_weights": [1.0],
    "f_divergence_type": "reverse_kl",
    "ld_alpha": None,
    "use_weighting": False,
}


def read_trainer(trainer: Any, count: int) -> dict[str, Any]:
    """Return the fields of a Task for the first ``count`` examples of a trainer (see ``Task.from_trainer``)."""
    rows = list(itertools.islice(_collated(trainer), count))
    if not rows:
        raise GuidedError("from_trainer: the trainer has no train_dataset, or an empty one")
    preference = "completion_mask" in rows[0]
    _check_loss(trainer, _DPO if preference else _PLAIN)
    fields: dict[str, Any] = {
        "batch_size": trainer.args.per_device_train_batch_size,
        "pad_id": _pad_id(trainer),
        "name": "trainer",
    }
    if preference:
        examples = [tuple(_sequence(row, i, _completion_labels(row)) for i in range(2)) for row in rows]
        return fields | {"examples": tuple(examples), "beta": trainer.beta}
    sequences = [s for i, row in enumerate(rows) for s in _unpacked(_sequence(row, 0, _labels(row, i)), row)]
    # A row whose answer was cut off weighs nothing in the trainer's loss.
    examples = [(s,) for s in sequences if any(label != IGNORE for label in s.labels[1:])]
    return fields | {"examples": tuple(examples), "token_mean": True}


def reference_margins(trainer: Trainer, task: Any, rows: int) -> tuple[float, ...] | None:
    """Margin of each example under the trainer's DPO reference (nats): stored ones, the reference model's, or those
    of the model with TRL's copy of the adapter that it came with, or else with its adapters disabled."""
    stored = [row for row in itertools.islice(_collated(trainer), rows) if "ref_chosen_logps" in row]
    if stored:
        return tuple(float(row["ref_chosen_logps"] - row["ref_rejected_logps"]) for row in stored)
    with _reference(trainer) as model, torch.no_grad():
        device = next(model.parameters()).device
        return tuple(float(m) for batch in task.batches(device) for m in task.quantity(model, batch))


@contextlib.contextmanager
def _reference(trainer: Any) -> Iterator[nn.Module]:
    reference = trainer.ref_model
    model = trainer.accelerator.unwrap_model(trainer.model if reference is None else reference)
    with _as_reference(model) if reference is None else contextlib.nullcontext(), evaluating(model):
        yield model


@contextlib.contextmanager
def _as_reference(model: Any) -> Iterator[None]:
    """A PeftModel as TRL asks it for its reference: a model that came with an adapter has a copy of it, named ref."""
    if "ref" not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    active, trained = model.active_adapter, [(p, p.requires_grad) for p in model.parameters()]
    model.set_adapter("ref")
    try:
        yield
    finally:
        model.set_adapter(active)
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


def _collated(trainer: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Each example through the trainer's collator, alone, so that nothing but its own padding is added."""
    if trainer.args.remove_unused_columns:
        trainer._set_signature_columns_if_needed()
    keep = trainer._signature_columns if trainer.args.remove_unused_columns else None
    for row in trainer.train_dataset if trainer.train_dataset is not None else ():
        yield trainer.data_collator([row if keep is None else {k: v for k, v in row.items() if k in keep}])


_SAME = (("chunked_nll", "nll"),)
"""Settings that change how a loss is computed, not what it is (TRL before 1.16 has this one)."""


def _check_loss(trainer: Trainer, expected: dict[str, object]) -> None:
    """Refuse a loss that a Task would not compute."""
    home = type(trainer).compute_loss.__module__
    if home.split(".")[0] not in ("transformers", "trl"):
        raise GuidedError(
            f"from_trainer: {type(trainer).__name__} computes a loss of its own (make the Task with from_dataset and "
            "metric=your function)"
        )
    if _router_loss(trainer):
        raise GuidedError(
            "from_trainer: the router's auxiliary loss is no part of a Task (set router_aux_loss_coef=0.0 in the "
            "trainer's arguments, or output_router_logits=False in the model's config)"
        )
    for name, value in expected.items():
        found = getattr(trainer, name, getattr(trainer.args, name, value))
        if found != value and (found, value) not in _SAME:
            raise GuidedError(f"from_trainer: {name}={found!r} is not a loss that a Task can compute (only {value!r})")


def _router_loss(trainer: Any) -> bool:
    """Whether the loss of a mixture of experts has a part for its router: as TRL, or else the model itself, has it."""
    enabled = getattr(trainer, "aux_loss_enabled", None)
    config = trainer.model.config.get_text_config()
    return getattr(config, "output_router_logits", False) if enabled is None else enabled


def _labels(row: dict[str, Any], index: int) -> torch.Tensor:
    if "labels" not in row:
        raise GuidedError(f"from_trainer: example {index} has no labels (its keys: {', '.join(sorted(row))})")
    return row["labels"]


def _completion_labels(row: dict[str, Any]) -> torch.Tensor:
    return row["input_ids"].masked_fill(row["completion_mask"] == 0, IGNORE)


def _sequence(row: dict[str, Any], index: int, labels: torch.Tensor) -> Tokens:
    ids, chosen = row["input_ids"][index], labels[index]
    real = row["attention_mask"][index].bool() if "attention_mask" in row else torch.ones_like(ids, dtype=torch.bool)
    return Tokens(tuple(ids[real].tolist()), tuple(chosen[real].tolist()))


def _unpacked(sequence: Tokens, row: dict[str, Any]) -> Iterator[Tokens]:
    """The sequences that were packed into one row: each starts at position 0."""
    positions = row["position_ids"][0].tolist() if "position_ids" in row else [0]
    starts = [i for i, position in enumerate(positions[: len(sequence.ids)]) if position == 0]
    for start, end in zip(starts, [*starts[1:], len(sequence.ids)], strict=True):
        yield Tokens(sequence.ids[start:end], sequence.labels[start:end])


def _pad_id(trainer: Trainer) -> int:
    found = (getattr(trainer.processing_class, name, None) for name in ("pad_token_id", "eos_token_id"))
    return next((i for i in found if i is not None), 0)
