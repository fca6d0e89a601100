"""What the base layer returns is written over only where nobody else can have it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from guided_ft.slice import SliceLayer

WIDTH = 64
PLACES = {"adjacent rows": (0, [4, 5, 6]), "scattered rows": (0, [1, 9, 40]), "columns": (1, [0, 3, 17])}


class Kept(nn.Linear):
    """Returns a view of a tensor that it holds on to, made without gradients, as int8 layers do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.held = super().forward(x)
            return self.held.view(self.held.shape)


def four_bits() -> nn.Module:
    nn4 = pytest.importorskip("bitsandbytes").nn
    return nn4.Linear4bit(WIDTH, WIDTH, bias=False, quant_type="nf4", compute_dtype=torch.float32).to("cpu")


def eight_bits() -> nn.Module:
    return pytest.importorskip("bitsandbytes").nn.Linear8bitLt(WIDTH, WIDTH, bias=False, has_fp16_weights=False)


BASES = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "conv1d": lambda: Conv1D(WIDTH, WIDTH),
    "nf4": four_bits,
    "int8": eight_bits,
    "a view": lambda: Kept(WIDTH, WIDTH),
}
GRADIENTS = {"gradients": torch.enable_grad, "none": torch.no_grad, "inference": torch.inference_mode}


@pytest.mark.parametrize("gradients", GRADIENTS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("base", BASES)
def test_the_change_is_added_and_nothing_of_others_is_touched(base, place, training, gradients):
    torch.manual_seed(0)
    inner = BASES[base]().requires_grad_(False).train(training)
    if base == "nf4":
        # Codes are made when the layer moves; the first pass hands them over.
        inner(torch.zeros(1, WIDTH))
    axis, index = PLACES[place]
    layer = SliceLayer(inner, "a", axis=1 - axis if base == "conv1d" else axis, index=index, init_weights=False)
    held: list[torch.Tensor] = []
    x = torch.randn(2, 3, WIDTH)
    with torch.no_grad():
        expected = inner(x).clone() + x @ layer.slice_delta["a"].dense(WIDTH, WIDTH).T
        before = inner(x).clone()
    hook = inner.register_forward_hook(lambda module, args, out: held.append(out))
    with GRADIENTS[gradients]():
        hooked = layer(x)
        hook.remove()
        alone = layer(x)
    torch.testing.assert_close(hooked, expected)
    assert torch.equal(alone, hooked)
    assert torch.equal(held[0], before), "what a hook was given has been written over"
    if base == "a view":
        assert torch.equal(inner.held, before)
    if gradients == "gradients":
        alone.sum().backward()
        assert layer.slice_delta["a"].weight.grad.abs().sum() > 0
