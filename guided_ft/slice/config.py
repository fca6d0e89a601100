"""What a slice adapter trains, as data that PEFT saves in ``adapter_config.json``."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft.config import PeftConfig
from peft.utils import PeftType

from ..errors import GuidedError
from . import card

PEFT_TYPE = "SLICE"
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_MAX_INDEX = 1 << 20
"""Above every real vocabulary or width; a range is spelled out in memory, so a made-up one must stay small."""


def pack_index(index: Iterable[int]) -> str:
    """Write indices as ranges: ``[0, 1, 2, 7]`` becomes ``"0-2,7"``."""
    parts: list[list[int]] = []
    for i in sorted(set(index)):
        if parts and i == parts[-1][1] + 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def unpack_index(text: str) -> list[int]:
    """Read what ``pack_index`` wrote. Raises GuidedError on anything else, and on absurdly large numbers."""
    index: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise GuidedError(f"slices: cannot read the index {part!r} (write ranges such as '0-63,128')")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= _MAX_INDEX or len(index) + last - first >= _MAX_INDEX:
            raise GuidedError(f"slices: the range {part!r} is empty or too large")
        index.extend(range(first, last + 1))
    return index


@dataclass
class SliceConfig(PeftConfig):
    """Configuration of the slice adapter.

    Either say exactly what to train (``slices``), or name modules and a ``fraction`` of their output rows, which
    are then drawn at random with ``seed`` (the control that every located choice should be compared with).

    Example::

        SliceConfig(slices={"model.layers.3.mlp.up_proj": {"axis": 0, "index": "17,204"}})
        SliceConfig(target_modules=["up_proj"], fraction=0.05, seed=0)

    In a mixture of experts the neurons of a layer's experts are named by the module that holds them all::

        SliceConfig(slices={"model.layers.3.mlp.experts": {"neurons": {"0": "17,204", "5": "0-7"}}})

    With ``rank`` each slice is a LoRA of that rank restricted to the chosen rows or columns.
    """

    slices: dict[str, dict] | None = field(
        default=None,
        metadata={
            "help": "Full module name -> {'axis': axis of the stored weight, 'index': ranges such as '0-63,128'}; of "
            "experts -> {'neurons': {expert: ranges}}."
        },
    )
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Modules to draw random rows from; derived from `slices` when these are given."}
    )
    fraction: float = field(default=0.05, metadata={"help": "Share of the output rows to draw when `slices` is None."})
    seed: int = field(default=0, metadata={"help": "Seed of the random draw when `slices` is None."})
    rank: int | None = field(
        default=None,
        metadata={"help": "Train slices as products of this rank, where that takes fewer parameters; None: in full."},
    )
    chosen: str | None = field(
        default=None, metadata={"help": "What the slices are and how they were chosen, in words, for the model card."}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "Start from zero, that is, from the base model. False is for tests."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules to train and save whole, beside the slices."}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules never to touch."})
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Layer numbers that target_modules is limited to."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of layers, if it is not a common one."}
    )
    bias: str = field(default="none", metadata={"help": "Biases stay frozen; only 'none' is accepted."})
    trainable_token_indices: list[int] | dict[str, list[int]] | None = field(
        default=None, metadata={"help": "Token embeddings to train beside the slices (a PEFT feature)."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(PEFT_TYPE)
        if self.bias != "none":
            raise GuidedError(f"bias: {self.bias!r} is not supported (slices train weights only; use bias='none')")
        if self.rank is not None and (type(self.rank) is not int or self.rank < 1):
            raise GuidedError(f"rank: {self.rank!r} is not a whole number from 1 (leave it out to train in full)")
        if self.slices is not None:
            if not isinstance(self.slices, dict):
                raise GuidedError(f"slices: expected module names with their rows, got {self.slices!r}")
            self.slices = {name: self._checked(name, spec) for name, spec in self.slices.items()}
            if not self.slices:
                raise GuidedError("slices: empty, so nothing would be trained (select at least one component)")
            if self.rank is not None and any("neurons" in spec for spec in self.slices.values()):
                raise GuidedError("rank: expert neurons are trained in full only (leave rank out, or choose heads)")
            self.target_modules = sorted(self.slices)
        elif not 0 < self.fraction <= 1:
            raise GuidedError(f"fraction: {self.fraction} is not in (0, 1]")

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write ``adapter_config.json`` and, beside an adapter's weights, what its model card says of them.

        PEFT saves the weights and its own card first.
        """
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        if any(folder.glob("adapter_model.*")):
            card.write(folder, self)

    @staticmethod
    def _checked(name: str, spec: dict) -> dict:
        if isinstance(spec, dict) and set(spec) == {"neurons"}:
            return {"neurons": _checked_neurons(name, spec["neurons"])}
        unreadable = GuidedError(f"slices.{name}: expected {{'axis': 0 or 1, 'index': ranges}}, got {spec!r}")
        if not isinstance(spec, dict) or set(spec) != {"axis", "index"} or spec["axis"] not in (0, 1):
            raise unreadable
        return {"axis": int(spec["axis"]), "index": _checked_index(name, spec["index"], unreadable)}


def _checked_index(name: str, given: Any, unreadable: GuidedError) -> str:
    try:
        index = unpack_index(given) if isinstance(given, str) else list(map(operator.index, given))
    except TypeError:
        raise unreadable from None
    if not index or min(index) < 0:
        raise GuidedError(f"slices.{name}: the index is empty or negative")
    return pack_index(index)


def _checked_neurons(name: str, given: Any) -> dict[str, str]:
    unreadable = GuidedError(f"slices.{name}: expected {{'neurons': {{expert: ranges}}}}, got {given!r}")
    if not isinstance(given, dict) or not given:
        raise unreadable
    neurons: dict[int, str] = {}
    for expert, index in given.items():
        # JSON turns numbers that are keys into text.
        match = re.fullmatch(r"\d{1,6}", str(expert))
        if match is None or int(expert) in neurons:
            raise unreadable
        neurons[int(expert)] = _checked_index(name, index, unreadable)
    return {str(expert): neurons[expert] for expert in sorted(neurons)}
