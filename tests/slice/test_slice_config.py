"""What a slice adapter is asked to train: exact names, readable ranges, and refusals that leave the model alone."""

from __future__ import annotations

import itertools
import re

import families
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from slicing import attach, base_tensors, same, slice_layers, slices_of
from torch import nn

from guided_ft.errors import GuidedError
from guided_ft.slice import SliceConfig, SliceLayer
from guided_ft.slice.config import pack_index, unpack_index

UP, DOWN, QUERY = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"


def refuses(message: str):
    return pytest.raises(GuidedError, match=f"^{re.escape(message)}$")


def rows(*index: int) -> dict:
    return {"axis": 0, "index": list(index)}


# -- ranges ------------------------------------------------------------------------------------------------------------
@given(st.sets(st.integers(0, 200) | st.integers(0, (1 << 20) - 1), min_size=1))
def test_index_round_trip(index):
    text = pack_index(index)
    assert unpack_index(text) == sorted(index)
    assert pack_index(unpack_index(text)) == text


@given(st.lists(st.integers(0, 30), min_size=1))
def test_ranges_are_maximal(index):
    spans = [[int(n) for n in (part.split("-") * 2)[:2]] for part in pack_index(index).split(",")]
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ("index", "text"), [([0, 1, 2, 7], "0-2,7"), ([5], "5"), ([3, 1, 3], "1,3"), ([4, 5], "4-5"), (range(64), "0-63")]
)
def test_packed_forms(index, text):
    assert pack_index(index) == text


@pytest.mark.parametrize("part", ["", "a", "1-", "-1", "1-2-3", "1.5", "0x1", "+1", "1" * 5000])
def test_unreadable_ranges(part):
    with refuses(f"slices: cannot read the index {part!r} (write ranges such as '0-63,128')"):
        unpack_index(f"7,{part}")


@pytest.mark.parametrize("part", ["3-1", "0-1048576", "1048576", "0-999999999"])
def test_empty_and_absurd_ranges(part):
    with refuses(f"slices: the range {part!r} is empty or too large"):
        unpack_index(part)


def test_many_ranges_cannot_add_up_to_an_absurd_one():
    with refuses("slices: the range '0-1048575' is empty or too large"):
        unpack_index("0-1048575,0-1048575")


@given(st.text("0123456789-, ", max_size=12))
def test_ranges_are_read_or_refused(text):
    try:
        index = unpack_index(text)
    except GuidedError:
        return
    assert index
    assert min(index) >= 0


# -- malformed configurations ------------------------------------------------------------------------------------------
def test_empty_slices():
    with refuses("slices: empty, so nothing would be trained (select at least one component)"):
        SliceConfig(slices={})


@pytest.mark.parametrize("slices", [[UP], "all", 3])
def test_slices_that_are_no_mapping(slices):
    with refuses(f"slices: expected module names with their rows, got {slices!r}"):
        SliceConfig(slices=slices)


@pytest.mark.parametrize(
    "spec",
    [
        None,
        {},
        [0, 1],
        "0-3",
        {"axis": 0},
        {"index": [1]},
        {"axis": 0, "index": [1], "rank": 4},
        {"axis": 2, "index": [1]},
        {"axis": -1, "index": [1]},
        {"axis": "0", "index": [1]},
        {"axis": [0], "index": [1]},
        {"axis": 0, "index": 5},
        {"axis": 0, "index": None},
        {"axis": 0, "index": ["1"]},
        {"axis": 0, "index": [1.5]},
    ],
    ids=str,
)
def test_malformed_specs(spec):
    with refuses(f"slices.{UP}: expected {{'axis': 0 or 1, 'index': ranges}}, got {spec!r}"):
        SliceConfig(slices={UP: spec})


@pytest.mark.parametrize("index", [[], [-1], [3, -2]])
def test_empty_and_negative_indices(index):
    with refuses(f"slices.{UP}: the index is empty or negative"):
        SliceConfig(slices={UP: {"axis": 0, "index": index}})


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_fractions_outside_the_unit_interval(fraction):
    with refuses(f"fraction: {fraction} is not in (0, 1]"):
        SliceConfig(target_modules=["up_proj"], fraction=fraction)


def test_biases_stay_frozen():
    with refuses("bias: 'all' is not supported (slices train weights only; use bias='none')"):
        SliceConfig(slices={UP: rows(1)}, bias="all")


# -- refusals by the model ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": {"a.b": rows(1)}}, "slices: this model has no module 'a.b' (1 missing in all)"),
        (
            {"slices": {UP: rows(1), "model.layers.9.z": rows(1), "a.b": rows(1)}},
            "slices: this model has no module 'a.b' (2 missing in all)",
        ),
        # The suffix of a name is not the name.
        ({"slices": {"up_proj": rows(1)}}, "slices: this model has no module 'up_proj' (1 missing in all)"),
        (
            {"slices": {QUERY: rows(1), UP: rows(0, 48)}},
            f"{UP}: slice: index 48 is outside axis 0 (0 to 47)",
        ),
        (
            {"slices": {DOWN: {"axis": 1, "index": "40-50"}}},
            f"{DOWN}: slice: index 50 is outside axis 1 (0 to 47)",
        ),
        (
            {"slices": {QUERY: rows(1), "model.norm": rows(1)}},
            "model.norm: slice: cannot train rows of a LlamaRMSNorm (only of linear layers)",
        ),
        (
            {"slices": {"model.embed_tokens": rows(1)}},
            "model.embed_tokens: slice: cannot train rows of a Embedding (only of linear layers)",
        ),
        (
            {"target_modules": ["norm"]},
            "model.norm: cannot draw rows of a LlamaRMSNorm (only of linear layers)",
        ),
        (
            {"target_modules": ["nothing"]},
            "target_modules: Target modules ['nothing'] not found in the base model. "
            "Please check the target modules and try again.",
        ),
    ],
)
def test_what_the_model_lacks_is_refused_and_the_model_stays_as_it_was(options, message):
    model = families.make("llama")
    before, logits = base_tensors(model), families.logits(model)
    with refuses(message):
        get_peft_model(model, SliceConfig(**options))
    assert not slice_layers(model)
    assert same(base_tensors(model), before)
    assert torch.equal(families.logits(attach(model, "L0.H0")), logits), "the model can still be used"


def test_a_refused_second_adapter_leaves_the_first_alone():
    peft_model = attach(families.make("llama"), "L0.N3", changed=True)
    before = families.logits(peft_model)
    with refuses(f"{UP}: slice: index 48 is outside axis 0 (0 to 47)"):
        peft_model.add_adapter("second", SliceConfig(slices={QUERY: rows(1), UP: rows(48)}))
    assert torch.equal(families.logits(peft_model), before)
    assert list(peft_model.peft_config) == ["default"]
    assert not [name for name in peft_model.state_dict() if ".second." in name]


def test_transposed_weights_have_their_rows_on_axis_one():
    model = families.make("gpt2")
    name = "transformer.h.0.mlp.c_fc"
    with refuses(f"{name}: slice: index 32 is outside axis 0 (0 to 31)"):
        get_peft_model(model, SliceConfig(slices={name: rows(32)}))
    peft_model = get_peft_model(model, SliceConfig(slices={name: {"axis": 1, "index": [47]}}))
    assert slice_layers(peft_model)[name].slice_delta["default"].weight.shape == (1, 32)


# -- exact names -------------------------------------------------------------------------------------------------------
def test_more_than_twenty_names_target_exactly_these(tmp_path):
    model = families.make("llama", layers=4)
    everything = slices_of(model, "L0.H* L0.N* L1.H* L1.N* L2.H* L2.N* L3.H* L3.N*")
    left_out = {"model.layers.1.mlp.up_proj", *(name for name in everything if ".3." in name and "self_attn" in name)}
    slices = {name: spec for name, spec in everything.items() if name not in left_out}
    assert len(slices) == 23
    peft_model = get_peft_model(model, SliceConfig(slices=slices, init_weights=False))
    assert set(slice_layers(peft_model)) == set(slices)
    expected = families.logits(peft_model)
    peft_model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(families.make("llama", layers=4), tmp_path)
    assert set(slice_layers(again)) == set(slices)
    assert torch.equal(families.logits(again), expected)


def test_a_name_that_ends_like_a_chosen_one_is_not_chosen():
    model = families.make("llama")
    model.draft = families.make("llama")
    assert isinstance(model.get_submodule(f"draft.{UP}"), nn.Linear)
    peft_model = get_peft_model(model, SliceConfig(slices={UP: rows(1)}))
    assert list(slice_layers(peft_model)) == [UP]


def test_unsorted_and_repeated_indices_are_put_in_order():
    peft_model = get_peft_model(families.make("llama"), SliceConfig(slices={UP: rows(9, 2, 9, 4)}))
    assert slice_layers(peft_model)[UP].slice_delta["default"].index.tolist() == [2, 4, 9]


def test_a_layer_by_itself_checks_its_rows():
    with refuses("slice: index 4 is outside axis 0 (0 to 3)"):
        SliceLayer(nn.Linear(6, 4), "default", axis=0, index=[4])
    with refuses("slice: cannot train rows of a ReLU (only of linear layers)"):
        SliceLayer(nn.ReLU(), "default", axis=0, index=[0])
