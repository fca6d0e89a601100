"""``Plan``: a selection and the way it is trained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

from ..errors import GuidedError
from ..system.arrays import read_with_arrays, write_with_arrays
from ..system.files import Json, digest
from .fits import check_plain, check_same_model
from .modes import Chosen, Mode, make_mode

if TYPE_CHECKING:
    import numpy as np
    from peft import PeftConfig
    from torch import nn


DEFAULT_MODE = "subspace"
"""What GuidedCallback, recipes and the command line train in if nothing is said. A ``Plan`` is made of something chosen
already, which are components unless its mode is named."""


class PlanOptions(TypedDict):
    """What a ``Plan`` is told beside its selection."""

    mode: str
    rank: int | None
    lr_scale: float
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What to train, and how.

    Example::

        plan = Plan(selection, mode="slice")
        trainer = SFTTrainer(model, args=args, train_dataset=data,
                             peft_config=plan.peft_config(), callbacks=[GuidedCallback(plan)])

    Args:
        selection: the chosen components, or directions.
        mode: ``slice`` (just their rows and columns), ``freeze`` (the whole weights that hold them, and all of a chosen
            layer) or ``lora`` (a stock LoRA on the modules that hold them); for directions ``subspace`` (a stock LoRA
            along them).
        rank: for ``lora``: mean rank; None spends at most as many parameters as the selection has. For ``slice``: train
            the rows and columns as products of this rank, where that takes fewer
            parameters; None trains them in full.
        lr_scale: factor on the trainer's learning rate; applied by GuidedCallback.
        options: the mode's own, beside the rank.

    Attributes:
        way: the ``Mode``, with its rank and options: whatever depends on the mode is asked of it.
    """

    selection: Chosen
    mode: str = "slice"
    rank: int | None = None
    lr_scale: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        way = self.way
        if not isinstance(self.selection, way.takes):
            raise GuidedError(
                f"plan: mode {self.mode!r} trains a {way.takes.__name__}, but it was given {self.selection!r:.100}"
            )
        if not len(self.selection):
            raise GuidedError(
                "plan: the selection is empty, so nothing would be trained (select at least one component)"
            )
        # What a mode cannot do is said here, not when training starts.
        way.check(self.selection)
        if not self.lr_scale > 0:
            raise GuidedError(f"lr_scale: {self.lr_scale} is not above 0")

    @cached_property
    def way(self) -> Mode[Any]:
        """The mode with its rank and options."""
        return make_mode(self.mode, self.rank, self.options)

    def peft_config(self) -> PeftConfig | None:
        """The adapter to hand to a trainer or to ``get_peft_model``; None for ``freeze``, which needs no adapter."""
        return self.way.config(self.selection)

    @property
    def expected_trainable(self) -> frozenset[str]:
        """Names of the parameters that train, as in the model that ``attach`` returns."""
        return frozenset(self.way.sizes(self.selection))

    @property
    def num_parameters(self) -> int:
        """How many parameters train."""
        return sum(self.way.sizes(self.selection).values())

    @property
    def learning_rate(self) -> float:
        """A peak learning rate of AdamW to begin with, by the mode and by how much trains.

        For a model of hidden size 576: slices 3.3e-3 from 0.05 to 3 % of the parameters, more by ``1 / share`` below
        and less by ``1 / sqrt(share)`` above; with a rank three times that. LoRA and freeze 3.3e-3 up to 1 %, and less
        above, LoRA by ``1 / sqrt(share)`` and freeze by ``1 / share``. Directions 2e-3 up to 3 %, and less by
        ``1 / sqrt(share)`` above. Other models: times ``576 / hidden size``, as Adam's rates go with the width (Yang et
        al. 2022, arXiv 2203.03466, table 3). For supervised fine-tuning; DPO takes a fifth. What it loses of units
        against the sweeps, on some of which it was chosen, is in benchmarks/RESULTS.md.
        """
        return self.way.learning_rate(self.selection)

    @property
    def first_layer(self) -> int:
        """The first layer that trains: back-propagation stops below it."""
        return self.way.work(self.selection).first_layer or 0

    def attach(self, model: nn.Module) -> nn.Module:
        """Make the model train exactly this plan, and return the model to hand to a trainer.

        For ``subspace``, ``slice`` and ``lora`` a PeftModel around the given model, for ``freeze`` the model itself.

        Raises:
            GuidedError: for another model than the plan was made for, or one with an adapter; it is left as it was.
        """
        self._check(model)
        return self.way.attach(self.selection, model)

    def attach_in_place(self, model: nn.Module) -> None:
        """Like ``attach``, but the object itself becomes the PeftModel.

        For callers that cannot hand a new object back, such as a callback of a trainer that already holds the model.
        Everything the trainer does later (saving, resuming, DPO's reference) then sees an ordinary PeftModel.
        """
        self._check(model)
        self.way.attach_in_place(self.selection, model)

    def _check(self, model: nn.Module) -> None:
        check_same_model(self.selection.anatomy, model)
        check_plain(model, self.way.beside)

    def is_attached(self, model: nn.Module) -> bool:
        """Whether the model already trains exactly this plan: these parameters, by the same adapter, and no other."""
        return self.way.same_as(self.selection, model)

    def full_precision(self, model: nn.Module) -> None:
        """Give the adapter of an attached model back its float32, which some trainers round."""
        self.way.full_precision(self.selection, model)

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """What ``to_dict`` leaves out of the selection."""
        return self.selection.arrays

    def to_dict(self) -> Json:
        """As JSON data, but for the ``arrays``."""
        data = {
            "mode": self.mode,
            "rank": self.rank,
            "lr_scale": self.lr_scale,
            "parameters": self.num_parameters,
            "selection": self.selection.to_dict(),
        }
        return data | ({"options": dict(self.options)} if self.options else {})

    @classmethod
    def from_dict(cls, data: Json, arrays: Mapping[str, np.ndarray] | None = None) -> Plan:
        """Rebuild from ``to_dict`` and ``arrays``. Raises GuidedError for anything else."""
        try:
            way = make_mode(data["mode"], data["rank"], data.get("options", {}))
            selection = way.read_selection(data["selection"], arrays or {})
            return cls(selection, data["mode"], data["rank"], float(data["lr_scale"]), data.get("options", {}))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, GuidedError):
                raise
            raise GuidedError(f"plan: not what Plan.save writes ({error!r})") from None

    @property
    def hash(self) -> str:
        """A digest of all that it says: plans with the same one train the same, however their selections were made."""
        parts = [self.selection.text, self.selection.anatomy.to_dict(), self.mode, self.rank, self.lr_scale]
        return digest([*parts, *([dict(self.options)] if self.options else [])])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, and what a selection has of arrays beside it as ``.safetensors``."""
        write_with_arrays(path, {"kind": "plan", "version": 1} | self.to_dict(), self.arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read what ``save`` wrote. Raises GuidedError for a file that is not there, damaged, or something else."""
        return cls.from_dict(*read_with_arrays(path, "plan"))

    def __repr__(self) -> str:
        total = self.selection.anatomy.num_parameters
        return f"Plan({self.mode}: {self.num_parameters:,} of {total:,} parameters, {self.num_parameters / total:.3%})"

    def __str__(self) -> str:
        """What trains, at which rate to begin with, and what was chosen."""
        count, total = self.num_parameters, self.selection.anatomy.num_parameters
        rank = f", rank {self.rank}" if self.rank else ""
        scale = f", times {self.lr_scale:g}" if self.lr_scale != 1 else ""
        chosen = str(self.selection).replace("\n", "\n  ")
        return (
            f"{self.mode}{rank}: trains {count:,} of {total:,} parameters ({count / total:.3%}), layer "
            f"{self.first_layer} and up, at a learning rate of about {self.learning_rate:.2g}{scale}\n  {chosen}"
        )
