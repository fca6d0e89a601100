"""Several adapters in one batch: each row of ``adapter_names`` says whose change its row of the input gets.

Inference only, as in PEFT. The names reach the layers through forward pre-hooks that live as long as one call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import GuidedError, did_you_mean

BASE = "__base__"
"""PEFT's name for "no adapter"."""

FLATTENS_ROW_BY_ROW = frozenset({"opt"})
"""Model types whose blocks hand ``[rows * tokens, features]`` to some linear layers, all tokens of a row together."""


@contextlib.contextmanager
def mixed_batch(
    model: nn.Module, adapters: set[str], names: Any, model_type: str | None, copies: int = 1
) -> Iterator[None]:
    """Inside, every adapted layer of ``model`` applies to row ``i`` of its input the adapter ``names[i]``.

    Args:
        adapters: the adapters that the model has.
        names: one name per row of the batch; ``"__base__"`` for none.
        copies: how often generation repeats each row (beams).

    Raises:
        GuidedError: for an unknown name, a merged adapter, a model in training mode or a batch of another size.
    """
    _check(model, adapters, names)
    names = [name for name in names for _ in range(copies)]
    flattens = model_type in FLATTENS_ROW_BY_ROW

    def count_rows(module: nn.Module, args: tuple, kwargs: dict) -> None:
        # A flattened layer cannot tell how many rows there are, but the block around it can.
        hidden = args[0] if args else kwargs.get("hidden_states")
        if isinstance(hidden, torch.Tensor) and len(hidden) != len(names):
            raise _wrong_size(len(names), len(hidden))

    def hand_over(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        x = args[0]
        tokens = 1
        if x.ndim == 2 and isinstance(module, BaseTunerLayer):
            if not flattens:
                raise GuidedError(
                    f"adapter_names: a {type(module.get_base_layer()).__name__} of this model gets its tokens without "
                    "their rows, so adapters cannot be told apart (run one adapter at a time)"
                )
            tokens = len(x) // len(names)
        if tokens * len(names) != len(x):
            raise _wrong_size(len(names), len(x))
        return args, kwargs | {"adapter_names": [name for name in names for _ in range(tokens)]}

    with contextlib.ExitStack() as hooks:
        for kinds, hook in (
            (GradientCheckpointingLayer, count_rows),
            ((BaseTunerLayer, AuxiliaryTrainingWrapper), hand_over),
        ):
            for module in model.modules():
                if isinstance(module, kinds):
                    hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def add_by_row(deltas: nn.ModuleDict, names: list[str], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Add to row ``i`` of ``y [rows, ..., out]`` the change of adapter ``names[i]`` for ``x [rows, ..., in]``."""
    for name in sorted(set(names) & set(deltas)):
        rows = torch.tensor([i for i, n in enumerate(names) if n == name], device=y.device)
        y = y.index_copy(0, rows, deltas[name](x.index_select(0, rows), y.index_select(0, rows)))
    return y


def copies_in(arguments: dict[str, Any]) -> int:
    """How often ``generate(**arguments)`` repeats each row."""
    config = arguments.get("generation_config")
    wanted = (arguments.get(k) or getattr(config, k, None) or 1 for k in ("num_beams", "num_return_sequences"))
    return max(wanted)


def _check(model: nn.Module, adapters: set[str], names: object) -> None:
    if not isinstance(names, list | tuple) or not names:
        raise GuidedError(f"adapter_names: expected one name per row of the batch, got {names!r} (pass a list)")
    unknown = sorted({str(name) for name in names} - adapters - {BASE})
    if unknown:
        mend = did_you_mean(unknown[0], adapters | {BASE})
        raise GuidedError(f"adapter_names: this model has no adapter {unknown[0]!r} ({mend})")
    if model.training:
        raise GuidedError("adapter_names: a mixed batch is for inference (call model.eval() first)")
    if any(isinstance(module, BaseTunerLayer) and module.merged for module in model.modules()):
        raise GuidedError("adapter_names: an adapter is merged into the base (call unmerge_adapter() first)")


def _wrong_size(names: int, rows: int) -> GuidedError:
    return GuidedError(f"adapter_names: {names} names for a batch of {rows} rows (pass one name per row)")
