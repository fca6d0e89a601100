"""``Mode``: a way of training what was chosen. Everything that depends on the mode is asked of it. Imports no torch.

A new mode is one file: a frozen dataclass whose fields are its options, entered in ``MODES`` (``register`` does it)::

    @dataclass(frozen=True)
    class Scale(Mode[Selection]):
        name, title, help = "scale", "scales", "a factor for each output of the modules that hold them"
        rank: int | None = None       # a mode that takes a rank has this field; others are options of its own

        def config(self, selection): ...   # the PEFT configuration to train it with
        def sizes(self, selection): ...    # the trained parameters, and how many numbers each holds
        def work(self, selection): ...     # where these lie, for ``estimate`` and for what lies below them
        def rate(self, share): ...         # a learning rate to begin with

From then on ``Plan``, ``GuidedCallback(mode="scale", mode_options={...})``, a recipe's ``train.mode`` and
``train.mode_options``, and ``guided-ft estimate`` know it. The rest has an answer for modes that put a PEFT adapter on
components, and is overridden by those that do not:

- ``trains_base``: it trains the base's own weights (no quantized bases; what is saved is the whole model);
- ``whole``: a budget must buy whole attentions and MLPs;
- ``check``: what it refuses, before anything is touched;
- ``attach``, ``same_as``: putting it on a model, and seeing that a model carries exactly it. A mode whose adapter holds
  frozen located tensors puts them there after ``super().attach``, and compares them, too;
- ``take_up``, ``full_precision``: an adapter that came back from where it was saved, or was rounded on the way;
- ``beside``: whether PEFT puts it beside another adapter;
- ``question``, ``localize``, ``read_map``, ``choose``, ``read_selection``: the map that it spends a budget on, and what
  comes out. They are those of components (``ScoreMap``, ``Selection``); a mode may bring its own, such as directions
  inside modules: whatever is a ``Chosen``.
"""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from ...anatomy import Anatomy
from ...selection.budget import select
from ...selection.scoremap import ScoreMap
from ...selection.selection import Selection
from ...selection.strategies import DIRECTION_STRATEGIES, STRATEGIES
from ...system.files import Json
from ...system.progress import hushed
from ..attaching import in_place, to_float32, trainable_names
from .typical import Example, spread
from .work import Work

if TYPE_CHECKING:
    import numpy as np
    from peft import PeftConfig
    from torch import nn

ADAPTER = "default"
"""PEFT's name for the first adapter; TRL relies on it."""

WIDTH = 576
"""Hidden size that the rates are written for (SmolLM2-135M)."""

PACE = {"sft": 1.0, "dpo": 0.2, "grpo": 0.2}
"""Of a mode's rate, by trainer: preferences and rewards are learned at smaller steps. GRPO's is DPO's, not measured."""

RATE = 3.3e-3
"""Of AdamW, where a mode trains the share of the model that suits it."""

_NOT_TRAINED = {
    # Where the base came from, and by what it was saved.
    *("base_model_name_or_path", "revision", "auto_mapping", "peft_version", "inference_mode", "task_type"),
    # PEFT rewrites long lists of modules; the names of the trained parameters say which they are.
    "target_modules",
    # The words of the model card.
    "chosen",
}
"""Fields of a PEFT configuration that say nothing about what is trained."""


Budget = str | float | int
"""As ``parse_budget`` reads it."""


class Chosen(Protocol):
    """What a plan asks of a selection; ``str`` of it tells a person how much of what was chosen."""

    @property
    def anatomy(self) -> Anatomy: ...

    @property
    def num_parameters(self) -> int: ...

    @property
    def text(self) -> str:
        """All that it is: plans are told apart by that."""

    def __len__(self) -> int: ...

    def to_dict(self) -> Json:
        """JSON data that ``read_selection`` of its mode reads back, with the ``arrays``."""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """What it has of large arrays."""


S = TypeVar("S", bound=Chosen)


@dataclasses.dataclass(frozen=True)
class Mode(ABC, Generic[S]):
    """One way of training a selection; its fields are its options. See the docstring of this file.

    Attributes:
        name: what a person writes.
        title: what a table calls it.
        help: what it trains of the chosen components, in a few words.
        takes: the class of what it trains.
        trains_base: whether it trains the base's own weights, which cannot be quantized then.
        whole: whether only whole attentions and MLPs can be chosen.
        beside: whether ``model.add_adapter(name, config)`` puts it beside another adapter.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    help: ClassVar[str]
    takes: ClassVar[type] = Selection
    trains_base: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    beside: ClassVar[bool] = True

    # -- what it is -------------------------------------------------------------------------------------------------
    @classmethod
    def options(cls) -> Json:
        """The mode's own options and their defaults, without the rank, which plans have in any mode."""
        return {f.name: f.default for f in dataclasses.fields(cls) if f.name != "rank"}

    @classmethod
    def takes_units(cls) -> bool:
        """Whether it trains units, which a scorer of the catalogue finds, of the kinds that are asked for."""
        return issubclass(cls.takes, Selection)

    @classmethod
    def strategies(cls) -> tuple[str, ...]:
        """The ways of spending a budget on its map, by name."""
        return tuple(STRATEGIES if cls.takes_units() else DIRECTION_STRATEGIES)

    @classmethod
    def takes_rank(cls) -> bool:
        return any(f.name == "rank" for f in dataclasses.fields(cls))

    @abstractmethod
    def config(self, selection: S) -> PeftConfig | None:
        """The adapter's configuration; None if none is needed."""

    @abstractmethod
    def sizes(self, selection: S) -> dict[str, int]:
        """The trained parameters, as named in the model that ``attach`` returns, and how many numbers each holds."""

    @abstractmethod
    def work(self, selection: S) -> Work:
        """Where the trained numbers lie."""

    @abstractmethod
    def rate(self, share: float) -> float:
        """A peak learning rate of AdamW for SFT of a model ``WIDTH`` wide, by the share of it that trains (0 to 1)."""

    def rate_at(self, share: float, width: int) -> float:
        """The rate for a model of any hidden size: Adam's rates go with one over it (arXiv 2203.03466, table 3)."""
        return self.rate(share) * WIDTH / width

    def learning_rate(self, selection: S) -> float:
        """The rate for a selection."""
        anatomy = selection.anatomy
        return self.rate_at(sum(self.sizes(selection).values()) / anatomy.num_parameters, anatomy.hidden_size)

    def check(self, selection: S) -> None:
        """Raise GuidedError for a selection that cannot be trained this way (experts, say)."""

    def examples(self, anatomy: Anatomy, budget: int) -> list[Example]:
        """Selections of a budget that are typical, for ``estimate``."""
        layers = range(anatomy.num_layers)
        return [Example(self.name, f"{self.title}, all layers", lambda: spread(anatomy, budget, layers))]

    # -- from a question to a selection -----------------------------------------------------------------------------
    def question(self, budget: Budget) -> Any:
        """What its map depends on of this mode and what shall be spent on it, as JSON data: maps of components are the
        same for all modes and budgets."""
        return "components"

    def localize(self, model: nn.Module, task: Any, method: str, retain: Any, *, budget: Budget, **options: Any) -> Any:
        """The map to spend a budget on, as ``guided_ft.localize``; it has ``save`` and ``meta``."""
        from ...scorers.localize import localize

        return localize(model, task, method, retain, **options)

    def read_map(self, path: str | os.PathLike[str]) -> Any:
        """What ``localize`` returned, from where it was saved."""
        return ScoreMap.load(path)

    def choose(self, scores: Any, budget: Budget, **options: Any) -> Any:
        """Spend a budget on a map, as ``guided_ft.select``."""
        return select(scores, budget, whole=self.whole, **options)

    def read_selection(self, data: Json, arrays: Mapping[str, np.ndarray]) -> Any:
        """What ``choose`` returned, from its ``to_dict`` and ``arrays``."""
        return Selection.from_dict(data)

    # -- on a model -------------------------------------------------------------------------------------------------
    def attach(self, selection: S, model: nn.Module) -> nn.Module:
        """Make a plain model train exactly this; return the model to hand to a trainer."""
        from peft import get_peft_model

        config = self.config(selection)
        assert config is not None, "a mode without an adapter has an attach of its own"
        with hushed():
            return get_peft_model(model, config)

    def attach_in_place(self, selection: S, model: nn.Module) -> None:
        """Like ``attach``, but the object itself becomes what ``attach`` returns."""
        in_place(model, lambda inner: self.attach(selection, inner))

    def full_precision(self, selection: S, model: nn.Module) -> None:
        """Give the adapter of an attached model back its float32."""
        if not self.trains_base:
            to_float32(model, self.sizes(selection))

    def take_up(self, selection: S, model: nn.Module) -> None:
        """Make an adapter of this selection that was loaded to be trained on train what it trained before."""

    def same_as(self, selection: S, model: nn.Module) -> bool:
        """Whether a model already trains exactly this: these parameters, by the same configuration, and no other.

        All fields of a configuration count, but for those that say nothing about what is trained.
        """
        carried = getattr(model, "peft_config", {})
        wanted = self.config(selection)
        if (wanted is None) != (not carried) or trainable_names(model) != self.sizes(selection).keys():
            return False
        if wanted is None:
            return True
        alone = list(getattr(model, "active_adapters", [ADAPTER])) == [ADAPTER]
        return alone and ADAPTER in carried and _trained(wanted) == _trained(carried[ADAPTER])


def _trained(config: PeftConfig) -> Mapping[str, Any]:
    fields = {key: value for key, value in config.to_dict().items() if key not in _NOT_TRAINED}
    # Empty patterns are none, and a set has no order.
    return {key: sorted(v) if isinstance(v, set) else v for key, v in fields.items() if v not in (None, {}, [], set())}
