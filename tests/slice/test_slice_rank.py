"""A slice with a rank is a LoRA restricted to the chosen rows or columns."""

from __future__ import annotations

import re

import families
import pytest
import torch
from peft import PeftModel, get_peft_model
from slicing import SELECTIONS, base_tensors, same, slice_layers, slices_of
from torch.autograd import gradcheck

from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError
from guided_ft.export import to_lora
from guided_ft.plan.attaching import trainable_names
from guided_ft.plan.plan import Plan
from guided_ft.selection.selection import Selection
from guided_ft.slice import SliceConfig
from guided_ft.slice.delta import ColumnDelta, RowDelta

EVERYTHING = f"{SELECTIONS['groups']} {SELECTIONS['neurons']}"
RANK = 2
VISIBLE = 1e-3


def attach(name: str, dtype: torch.dtype = torch.float32, *, changed: bool = True, text: str = EVERYTHING) -> PeftModel:
    model = families.make(name, dtype)
    torch.manual_seed(0)
    return get_peft_model(model, SliceConfig(slices=slices_of(model, text), rank=RANK, init_weights=not changed))


def deltas(model: torch.nn.Module):
    return {name: layer.slice_delta["default"] for name, layer in slice_layers(model).items()}


# -- shape and start -----------------------------------------------------------------------------------------------------


def test_a_rank_is_used_where_it_saves():
    """One neuron in layer 0, four in layer 1; a head has eight rows."""
    found = deltas(attach("llama", text="L0.N3 L0.H1 L1.N1 L1.N2 L1.N7 L1.N9"))
    shapes = {name: {n: tuple(p.shape) for n, p in delta.named_parameters()} for name, delta in found.items()}
    assert shapes["model.layers.0.mlp.up_proj"] == {"weight": (1, 32)}
    assert shapes["model.layers.0.mlp.down_proj"] == {"weight": (32, 1)}
    assert shapes["model.layers.0.self_attn.q_proj"] == {"A": (RANK, 32), "B": (8, RANK)}
    assert shapes["model.layers.0.self_attn.o_proj"] == {"A": (RANK, 8), "B": (32, RANK)}
    assert shapes["model.layers.1.mlp.up_proj"] == {"A": (RANK, 32), "B": (4, RANK)}
    assert shapes["model.layers.1.mlp.down_proj"] == {"A": (RANK, 4), "B": (32, RANK)}


@pytest.mark.parametrize("index", [[1, 2, 3, 4, 5], [0, 2, 4, 5, 7]], ids=str)
@pytest.mark.parametrize("cls", [RowDelta, ColumnDelta])
def test_gradcheck(cls, index):
    by_row = cls is RowDelta
    features_in, features_out = (7, 8) if by_row else (8, 7)
    shape = (5, 7) if by_row else (7, 5)
    torch.manual_seed(0)
    delta = cls(index, shape, torch.float64, torch.device("cpu"), 2)
    assert not delta.B.any()
    assert delta.A.any()
    x, y, a, b = (
        torch.randn(s, dtype=torch.float64, requires_grad=True)
        for s in ((2, 3, features_in), (2, 3, features_out), (2, shape[1]), (shape[0], 2))
    )

    def forward(x, y, a, b):
        return torch.func.functional_call(delta, {"A": a, "B": b}, (x, y.clone()))

    assert gradcheck(forward, (x, y, a, b))
    with torch.no_grad():
        delta.A.copy_(a)
        delta.B.copy_(b)
        dense = delta.dense(features_out, features_in)
        assert torch.allclose(forward(x, y, a, b), y + x @ dense.T, atol=1e-12)
        assert dense.index_select(0 if by_row else 1, torch.tensor(index)).equal(b @ a)
        up, down = delta.factors(features_out, features_in)
        assert torch.allclose(up @ down, dense, atol=1e-12)
        assert len(down) == 2


# -- merging, saving, exporting --------------------------------------------------------------------------------------------


def test_a_file_without_a_factor_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    attach("llama").save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors["base_model.model.model.layers.0.self_attn.q_proj.slice_delta.B"]
    save_file(tensors, path)
    with pytest.raises(GuidedError, match=r"q_proj\.slice_delta\.B is missing, not \(16, 2\)"):
        PeftModel.from_pretrained(families.make("llama"), tmp_path)


def test_it_exports_as_a_lora_of_its_rank(family, tmp_path):
    peft_model = attach(family)
    to_lora(peft_model, tmp_path)
    again = PeftModel.from_pretrained(families.make(family), tmp_path)
    assert (families.logits(again) - families.logits(peft_model)).abs().max() <= 1e-4
    ranks = {n: m.r["default"] for n, m in again.get_base_model().named_modules() if hasattr(m, "lora_A")}
    assert RANK in ranks.values()
    assert all(ranks[n] == RANK for n, delta in deltas(peft_model).items() if delta.low_rank)


# -- plans -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["L1", "L0.H1 L1.H2 L1.H3", "L0.N3 L1.N4 L1.N8 L1.N40 L1.N41", "L1 L1.H0 L1.N5 L0.N2"])
@pytest.mark.parametrize("rank", [1, 3, 1000])
def test_a_plan_trains_exactly_what_it_says(family, text, rank):
    model = families.make(family)
    before = base_tensors(model)
    selection = Selection.parse(text, Anatomy.of(model))
    plan, full = Plan(selection, "slice", rank=rank), Plan(selection, "slice")
    attached = plan.attach(model)
    assert trainable_names(attached) == plan.expected_trainable
    assert sum(p.numel() for p in attached.parameters() if p.requires_grad) == plan.num_parameters
    assert plan.is_attached(attached)
    assert not full.is_attached(attached)
    assert plan.num_parameters <= full.num_parameters
    assert plan.num_parameters < full.num_parameters or rank == 1000
    assert (plan.expected_trainable == full.expected_trainable) == (rank == 1000)
    assert Plan.from_dict(plan.to_dict()) == plan
    assert plan.hash != full.hash
    optimizer = torch.optim.AdamW([p for p in attached.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        attached(input_ids=families.tokens(), labels=families.tokens()).loss.backward()
        optimizer.step()
    assert all(delta.change.abs().max() > 1e-4 for delta in deltas(attached).values())
    assert same(base_tensors(attached), before)


@pytest.mark.parametrize("rank", [0, -1, 1.5, "4", True])
def test_impossible_ranks_are_refused(rank):
    said = f"rank: {rank!r} is not a whole number from 1 (leave it out to train in full)"
    with pytest.raises(GuidedError, match=f"^{re.escape(said)}$"):
        SliceConfig(target_modules=["up_proj"], rank=rank)


def test_a_rank_that_would_cost_more_than_the_slice_is_not_used():
    """A head has 8 rows of 32; rank 7 is lower, but takes 7 * 40 numbers where there are 8 * 32."""
    model = families.make("llama")
    plan = Plan(Selection.parse("L0.H1", Anatomy.of(model)), "slice", rank=7)
    attached = plan.attach(model)
    assert plan.num_parameters == plan.selection.num_parameters
    assert trainable_names(attached) == plan.expected_trainable
    assert not any(delta.low_rank for delta in deltas(attached).values())
