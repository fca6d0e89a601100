"""Keep 4-bit weights in the format that has a gradient."""

from __future__ import annotations

from torch import nn

from ..errors import GuidedError


def forbid_packing(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights for inference.

    On processors with AVX512-BF16 it does so in place at a layer's first forward pass in eval mode. From then on that
    layer hands no gradient down, in training mode too.

    Raises:
        GuidedError: if that has happened already. Scales are rounded by it, so that it cannot be undone.
    """
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "support_avx512bf16_for_cpu")}
    for name, layer in layers.items():
        if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise GuidedError(
                f"{name}: its 4-bit weight was packed for inference by an earlier forward pass, and has no gradient "
                "(load the model again, and localize or attach before it runs in eval mode)"
            )
    for layer in layers.values():
        layer.support_avx512bf16_for_cpu = False
