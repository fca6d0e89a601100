"""``evaluating``: eval mode for the time of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

_PACKS = "support_avx512bf16_for_cpu"


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every module is in the mode that it was in.

    On a processor with AVX512-BF16, bitsandbytes' 4-bit layers repack their weights when they are first asked in eval
    mode, and can be trained no more: they are kept from it.
    """
    training = [(module, module.training) for module in model.modules()]
    packing = [(module, module.__dict__[_PACKS]) for module in model.modules() if _PACKS in module.__dict__]
    for module, _ in packing:
        setattr(module, _PACKS, False)
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode
        for module, packs in packing:
            setattr(module, _PACKS, packs)
