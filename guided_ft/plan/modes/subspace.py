"""``subspace``: a stock LoRA with chosen input directions as its fixed ``A``; only ``B``, zero at birth, is trained.

Whatever ``B`` learns, ``B A x`` is small where ``A x`` is: on retained text, if the directions were located. With
random directions this is LoRA-FA (Zhang et al. 2023, arXiv 2308.03303).
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...anatomy import Anatomy
from ...selection.budget import share_of
from ...selection.settings import SelectOptions
from ...selection.spend import select_directions
from ...selection.subspace import Subspace
from ...system.files import Json
from ...system.places import cache_folder
from .located import Located
from .lora import factors
from .mode import ADAPTER, Budget, Mode
from .typical import Example, spread_directions
from .work import Work

if TYPE_CHECKING:
    import numpy as np
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer
    from torch import nn

RATE = 2e-3


@dataclass(frozen=True)
class SubspaceMode(Mode[Subspace]):
    """What PEFT saves is a plain LoRA of scale 1, which other programs load without this package.

    Args:
        lam, max_rank: as in ``guided_ft.localize_directions``; None: enough for the budget.
        keep: statistics of the retained text are kept in the user's cache folder, for further tasks on the model.
    """

    name: ClassVar[str] = "subspace"
    title: ClassVar[str] = "directions"
    help: ClassVar[str] = "a stock LoRA along located input directions, which stay fixed"
    takes: ClassVar[type] = Subspace
    # PEFT asks for layers of one's own only where no adapter is yet: elsewhere ``A`` would be random, and train.
    beside: ClassVar[bool] = False
    lam: float = 0.01
    max_rank: int | None = None
    keep: bool = True

    def config(self, selection: Subspace) -> LoraConfig:
        """A LoRA configuration that carries the directions until its layers are made."""
        from peft import LoraConfig
        from torch import nn

        ranks = selection.ranks
        largest = max(ranks.values())
        others = {name: r for name, r in ranks.items() if r != largest}
        config = LoraConfig(
            task_type="CAUSAL_LM",
            target_modules=sorted(ranks),
            # Servers reserve room for ``r`` and look at no pattern.
            r=largest,
            # alpha = r everywhere, so that the scale is 1.
            lora_alpha=largest,
            rank_pattern=others,
            alpha_pattern=dict(others),
            fan_in_fan_out=selection.anatomy.family.transposed,
        )
        # PEFT's door for layers of one's own: it is asked for every target, of whatever class.
        config._register_custom_module({nn.Module: _Fixed(selection)})  # type: ignore[dict-item]
        return config

    def sizes(self, selection: Subspace) -> dict[str, int]:
        return {
            f"base_model.model.{module}.lora_B.{ADAPTER}.weight": rank * selection.anatomy.outputs(module)
            for module, rank in selection.ranks.items()
        }

    def work(self, selection: Subspace) -> Work:
        anatomy = selection.anatomy
        sizes = {
            (anatomy.layer_of(module), anatomy.relative(module)): factors(anatomy, anatomy.relative(module), rank)
            for module, rank in selection.ranks.items()
        }
        return Work(added={at: (b,) for at, (_, b) in sizes.items()}, fixed={at: a for at, (a, _) in sizes.items()})

    def rate(self, share: float) -> float:
        """Steady up to 3 % of the parameters, less by ``1 / sqrt(share)`` above."""
        return RATE * min(1.0, math.sqrt(0.03 / share))

    def examples(self, anatomy: Anatomy, budget: int) -> list[Example]:
        layers = range(anatomy.num_layers)
        return [Example("subspace", "directions, all layers", lambda: spread_directions(anatomy, budget, layers))]

    # -- from a question to a selection -----------------------------------------------------------------------------
    def question(self, budget: Budget) -> list[Any]:
        return ["directions", self.lam, self.max_rank or _larger(budget)]

    def localize(
        self, model: nn.Module, task: Any, method: str, retain: Any, *, budget: Budget, **options: Any
    ) -> Located:
        """The map of directions; the scorer of components and the kinds to score are not asked for."""
        from ...scorers.directions import localize_directions

        settings = {key: value for key, value in options.items() if key in ("seed", "progress")}
        cache = cache_folder() / "retained" if self.keep else None
        lam, rank = self.lam, self.max_rank
        found = localize_directions(model, task, retain, lam=lam, max_rank=rank, budget=budget, cache=cache, **settings)
        return Located(found)

    def read_map(self, path: str | os.PathLike[str]) -> Located:
        return Located.load(path)

    def choose(self, scores: Any, budget: Budget, **options: Any) -> Subspace:
        """Spend a budget, as ``guided_ft.select_directions``; directions are of no kind."""
        options.pop("kinds", None)
        return select_directions(scores.directions, budget, **options)

    def read_selection(self, data: Json, arrays: Mapping[str, np.ndarray]) -> Subspace:
        return Subspace.from_dict(data, arrays)

    # -- on a model -------------------------------------------------------------------------------------------------
    def same_as(self, selection: Subspace, model: nn.Module) -> bool:
        return super().same_as(selection, model) and _carries(selection, model)

    def take_up(self, selection: Subspace, model: nn.Module) -> None:
        """PEFT loads ``A`` as trainable as ``B``: hold it fast again."""
        if _carries(selection, model):
            for layer in _layers(selection, model).values():
                _hold(layer, ADAPTER)

    def full_precision(self, selection: Subspace, model: nn.Module) -> None:
        """Where ``A`` was rounded, the directions are written anew."""
        import torch

        super().full_precision(selection, model)
        for name, layer in _layers(selection, model).items():
            weight = layer.lora_A[ADAPTER].weight
            if weight.dtype in (torch.bfloat16, torch.float16):
                weight.data = torch.from_numpy(selection.bases[name]).to(weight.device)


def _larger(budget: Budget) -> Budget:
    """The default budget, or one that a map for the default is not enough for, or may not be."""
    share, default = share_of(budget), share_of(SelectOptions.budget)
    return SelectOptions.budget if share and default and share <= default else budget


class _Fixed:
    """Makes PEFT's own LoRA layers, with an ``A`` that holds directions and stays as it is."""

    def __init__(self, subspace: Subspace) -> None:
        self.bases = subspace.bases

    def __call__(self, target: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any) -> LoraLayer:
        from peft.tuners.lora import LoraModel

        stock = copy.copy(config)
        stock._custom_modules = None
        layer = LoraModel._create_new_module(stock, adapter_name, target, **kwargs)
        _fix(layer, adapter_name, self.bases[kwargs["target_name"]])
        return layer


def _fix(layer: Any, adapter: str, basis: np.ndarray) -> None:
    """Write directions into the ``A`` of a LoRA layer, and freeze it for good."""
    import torch

    with torch.no_grad():
        layer.lora_A[adapter].weight.copy_(torch.from_numpy(basis))
    _hold(layer, adapter)


def _hold(layer: Any, adapter: str) -> None:
    """Freeze the ``A`` of a LoRA layer for good.

    When ``disable_adapter()`` ends it trains all that belongs to the adapter, but for what the layer lists as frozen.
    """
    frozen = layer.frozen_peft_weight_names
    layer.frozen_peft_weight_names = {**frozen, adapter: (*frozen.get(adapter, ()), "lora_A")}
    layer._freeze_non_trainable_peft_weights()


def _layers(selection: Subspace, model: nn.Module) -> dict[str, Any]:
    """The LoRA layers that a model has where the directions lie, by the module's name."""
    found = dict(model.named_modules())
    layers = {name: found.get(f"base_model.model.{name}") for name in selection.bases}
    return {name: layer for name, layer in layers.items() if ADAPTER in getattr(layer, "lora_A", ())}


def _carries(selection: Subspace, model: nn.Module) -> bool:
    """Whether every ``A`` of a model holds its directions, rounded as a model in half precision rounds them."""
    import torch

    layers = _layers(selection, model)
    if layers.keys() != selection.bases.keys():
        return False
    weights = {name: layer.lora_A[ADAPTER].weight.detach().float().cpu() for name, layer in layers.items()}
    return all(
        weights[name].shape == basis.shape and torch.allclose(weights[name], torch.from_numpy(basis), atol=4e-3)
        for name, basis in selection.bases.items()
    )
