"""What training costs and how it differentiates, beyond the laws of ``law_matrix.py``."""

from __future__ import annotations

import families
import pytest
import torch
from laws import loss_of
from slicing import SELECTIONS, attach
from torch.autograd import gradcheck

from guided_ft.anatomy import Anatomy
from guided_ft.slice.layer import ColumnDelta, RowDelta


@pytest.mark.parametrize("index", [[2, 3, 4], [0, 2, 5], [5], list(range(6))], ids=str)
@pytest.mark.parametrize("cls", [RowDelta, ColumnDelta])
def test_gradcheck(cls, index):
    """Rows of a [6, 4] matrix or columns of a [4, 6] one, with the gradients of weight, input and base output."""
    by_row = cls is RowDelta
    features_in, features_out = (4, 6) if by_row else (6, 4)
    shape = (len(index), features_in) if by_row else (features_out, len(index))
    delta = cls(index, shape, torch.float64, torch.device("cpu"))
    assert (delta.span is not None) == (index != [0, 2, 5])
    torch.manual_seed(0)
    x, y, w = (
        torch.randn(s, dtype=torch.float64, requires_grad=True)
        for s in ((2, 3, features_in), (2, 3, features_out), shape)
    )

    def forward(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        # The layer adds in place to a fresh tensor, which the clone stands for.
        return torch.func.functional_call(delta, {"weight": w}, (x, y.clone()))

    assert gradcheck(forward, (x, y, w))
    with torch.no_grad():
        delta.weight.copy_(w)
        dense = delta.dense(features_out, features_in)
        assert dense.count_nonzero() == w.numel()
        assert torch.allclose(forward(x, y, w), y + x @ dense.T, atol=1e-12)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_columns_keep_only_the_inputs_that_they_need(name):
    model = attach(families.make(name), SELECTIONS["neurons"])
    down = model.base_model.model.get_submodule(Anatomy.of(model).down_module(0))
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    x = torch.randn(2, 9, families.INTERMEDIATE, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        down(x).sum().backward()
    weights = {id(p) for p in down.parameters()}
    chosen = len(down.slice_delta["default"].index)
    activations = [t for t in kept if t.is_floating_point() and id(t) not in weights and t.numel() % 18 == 0]
    assert [t.numel() for t in activations if t.numel() != down.base_layer.weight.numel()] == [18 * chosen]


@pytest.mark.slow
def test_machine_code_of_the_compiler_gives_the_same_logits_and_gradients():
    peft_model = attach(families.make("llama"), SELECTIONS["groups"], changed=True)
    expected = families.logits(peft_model)
    loss_of(peft_model).backward()
    gradients = {n: p.grad.clone() for n, p in peft_model.named_parameters() if p.grad is not None}
    peft_model.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(peft_model)
    try:
        found = families.logits(compiled)
    except (torch._inductor.exc.InductorError, torch._dynamo.exc.BackendCompilerFailed) as error:
        pytest.skip(f"the compiler does not work on this machine: {str(error).splitlines()[0]}")
    assert (found - expected).abs().max() <= 1e-4
    loss_of(compiled).backward()
    found_gradients = {n: p.grad for n, p in peft_model.named_parameters() if p.grad is not None}
    assert found_gradients.keys() == gradients.keys()
    assert all((found_gradients[n] - gradients[n]).abs().max() <= 1e-4 for n in gradients)
