"""``Plan``: a Selection and the way it is trained."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

from ..errors import GuidedError, pick
from ..selection.selection import Selection
from ..system.files import digest, read_json, write_json
from .modes import ADAPTER, MODES, WIDTH

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


@dataclass(frozen=True)
class Plan:
    """What to train, and how.

    Example::

        plan = Plan(selection, mode="slice")
        trainer = SFTTrainer(model, args=args, train_dataset=data,
                             peft_config=plan.peft_config(), callbacks=[GuidedCallback(plan)])

    Args:
        selection: the chosen components.
        mode: ``slice`` (just their rows and columns), ``freeze`` (the whole weights that hold them, and all of a chosen
            layer) or ``lora`` (a stock LoRA on the modules that hold them).
        rank: for ``lora``: mean rank; None spends at most as many parameters as the selection has. For ``slice``: train
            the rows and columns as products of this rank, where that takes fewer
            parameters; None trains them in full.
        lr_scale: factor on the trainer's learning rate; applied by GuidedCallback.
    """

    selection: Selection
    mode: str = "slice"
    rank: int | None = None
    lr_scale: float = 1.0

    def __post_init__(self) -> None:
        pick(MODES, self.mode, "mode")
        if not len(self.selection):
            raise GuidedError(
                "plan: the selection is empty, so nothing would be trained (select at least one component)"
            )
        if self.rank is not None and (not MODES[self.mode].takes_rank or self.rank < 1):
            raise GuidedError(f"rank: {self.rank} with mode {self.mode!r} (modes 'slice' and 'lora' take one, from 1)")
        if self.selection.anatomy.num_experts:
            # What a mode cannot do with experts is said here, not when training starts.
            MODES[self.mode].config(self.selection, self.rank)
        if not self.lr_scale > 0:
            raise GuidedError(f"lr_scale: {self.lr_scale} is not above 0")

    def peft_config(self) -> PeftConfig | None:
        """The adapter to hand to a trainer or to ``get_peft_model``; None for ``freeze``, which needs no adapter."""
        return MODES[self.mode].config(self.selection, self.rank)

    @property
    def expected_trainable(self) -> frozenset[str]:
        """Names of the parameters that train, as in the model that ``attach`` returns."""
        return frozenset(MODES[self.mode].names(self.selection, self.rank))

    @property
    def num_parameters(self) -> int:
        """How many parameters train."""
        return MODES[self.mode].count(self.selection, self.rank)

    @property
    def learning_rate(self) -> float:
        """A peak learning rate of AdamW to begin with, by the mode and by how much trains.

        For a model of hidden size 576: slices 3.3e-3 from 0.05 to 3 % of the parameters, more by ``1 / share`` below
        and less by ``1 / sqrt(share)`` above; with a rank three times that. LoRA and freeze 3.3e-3 up to 1 %, and less
        above, LoRA by ``1 / sqrt(share)`` and freeze by ``1 / share``. Other models: times ``576 / hidden size``, as
        Adam's rates go with the width (Yang et al. 2022, arXiv 2203.03466, table 3). For supervised fine-tuning; DPO
        takes a fifth. What it loses against the sweeps, on some of which it was chosen, is in benchmarks/RESULTS.md.
        """
        anatomy = self.selection.anatomy
        rate = MODES[self.mode].rate(self.num_parameters / anatomy.num_parameters, self.rank)
        return rate * WIDTH / anatomy.hidden_size

    @property
    def first_layer(self) -> int:
        """The lowest layer that trains: back-propagation stops below it."""
        anatomy = self.selection.anatomy
        return min(int(name.split(f"{anatomy.prefix}.", 1)[1].split(".", 1)[0]) for name in self.expected_trainable)

    def attach(self, model: nn.Module) -> nn.Module:
        """Make the model train exactly this plan, and return the model to hand to a trainer.

        For ``slice`` and ``lora`` a PeftModel around the given model, for ``freeze`` the model itself.
        """
        config = self.peft_config()
        if config is None:
            return _freeze(self, model)
        from peft import get_peft_model

        return get_peft_model(model, config)

    def attach_in_place(self, model: nn.Module) -> None:
        """Like ``attach``, but the object itself becomes the PeftModel.

        For callers that cannot hand a new object back, such as a callback of a trainer that already holds the model.
        Everything the trainer does later (saving, resuming, DPO's reference) then sees an ordinary PeftModel.
        """
        if self.peft_config() is None:
            _freeze(self, model)
            return
        inner = copy.copy(model)
        vars(inner).update({name: _rebound(value, model, inner) for name, value in vars(model).items()})
        attached = self.attach(inner)
        model.__class__ = attached.__class__
        model.__dict__ = attached.__dict__

    def is_attached(self, model: nn.Module) -> bool:
        """Whether the model already trains exactly this plan: these parameters, with these rows or ranks."""
        wanted, carried = self.peft_config(), getattr(model, "peft_config", {}).get(ADAPTER)
        same = all(
            getattr(wanted, k, None) == getattr(carried, k, None) for k in ("slices", "rank", "r", "rank_pattern")
        )
        return same and trainable_names(model) == self.expected_trainable

    def to_dict(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "rank": self.rank,
            "lr_scale": self.lr_scale,
            "parameters": self.num_parameters,
            "selection": self.selection.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plan:
        try:
            return cls(Selection.from_dict(data["selection"]), data["mode"], data["rank"], float(data["lr_scale"]))
        except (KeyError, TypeError) as error:
            raise GuidedError(f"plan: not what Plan.save writes ({error!r})") from None

    @property
    def hash(self) -> str:
        return digest([str(self.selection), self.selection.anatomy.to_dict(), self.mode, self.rank, self.lr_scale])

    def save(self, path: str | os.PathLike[str]) -> None:
        write_json(path, {"kind": "plan", "version": 1} | self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        return cls.from_dict(read_json(path, "plan"))

    def __repr__(self) -> str:
        total = self.selection.anatomy.num_parameters
        return f"Plan({self.mode}: {self.num_parameters:,} of {total:,} parameters, {self.num_parameters / total:.3%})"


def _rebound(value: Any, old: object, new: object) -> Any:
    """A method that a library has put on the object ``old``, with the methods that it wraps, bound to ``new``.

    TRL before 1.16 replaces ``forward`` by a method of the object that calls the former one.
    """
    if not (isinstance(value, MethodType) and value.__self__ is old):
        return value
    for cell in value.__func__.__closure__ or ():
        cell.cell_contents = _rebound(cell.cell_contents, old, new)
    return MethodType(value.__func__, new)


def trainable_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that require gradients."""
    return frozenset(name for name, p in model.named_parameters() if p.requires_grad)


def full_precision(model: nn.Module) -> None:
    """Give adapters back their float32: TRL casts those of quantized models to bfloat16, which rounds small updates
    away, and what was saved is float32 when it is loaded again."""
    import torch

    for name, parameter in model.named_parameters():
        adapter = ".slice_delta." in name or ".lora_" in name
        if parameter.requires_grad and adapter and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def _freeze(plan: Plan, model: nn.Module) -> nn.Module:
    wanted = plan.expected_trainable
    found = {name: p for name, p in model.named_parameters() if name in wanted}
    missing = sorted(wanted - set(found))
    if missing:
        raise GuidedError(f"freeze: this model has no parameter {missing[0]!r} ({len(missing)} missing in all)")
    from ..slice.storage import is_quantized

    for name, parameter in found.items():
        if is_quantized(parameter):
            raise GuidedError(f"freeze: {name} is quantized and cannot be trained (use mode='slice' or 'lora')")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in found.values():
        parameter.requires_grad_(True)
    return model
