"""The laws of merging and of several adapters. See ``laws.py``."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import families
import moe
import pytest
import torch
from laws import DTYPES, MERGED, VISIBLE, attached, config, deltas, distance, text_of, two_adapters
from peft import PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from slicing import base_tensors, same, slice_layers


def refused_by_peft(kind: type[Exception], message: str):
    return pytest.raises(kind, match=re.escape(message))


# -- merging -----------------------------------------------------------------------------------------------------------
def merged_it_computes_the_same(family: str, folder: Path) -> None:
    base = families.logits(families.make(family))
    for which in ("all", "heads"):
        peft_model = attached(family, which)
        before = families.logits(peft_model)
        assert distance(before, base) > VISIBLE
        peft_model.merge_adapter()
        assert distance(families.logits(peft_model), before) <= MERGED
        with peft_model.disable_adapter():
            assert torch.equal(families.logits(peft_model), base)
        assert torch.equal(families.logits(peft_model), before)


def merging_writes_its_slices_and_unmerging_leaves_no_trace(family: str, folder: Path) -> None:
    masks = moe.mask_of(families.make(family), text_of(family, "all"))
    for dtype in DTYPES:
        before = base_tensors(families.make(family, dtype))
        peft_model = attached(family, dtype=dtype)
        for delta in deltas(peft_model).values():
            delta.data.fill_(1.0)  # no number is so small that it is rounded away
        peft_model.merge_adapter()
        for name, tensor in base_tensors(peft_model).items():
            moved = tensor != before[name]
            assert torch.equal(moved, masks[name].bool()) if name in masks else not moved.any(), name
        once = base_tensors(peft_model)
        with pytest.warns(UserWarning, match="All adapters are already merged"):
            peft_model.merge_adapter()
        assert same(base_tensors(peft_model), once)
        peft_model.unmerge_adapter()
        assert same(base_tensors(peft_model), before)


def overlapping_adapters_merge_to_their_sum(family: str, folder: Path) -> None:
    for dtype in reversed(DTYPES):
        before = base_tensors(families.make(family, dtype))
        peft_model = two_adapters(family, dtype=dtype)
        peft_model.base_model.set_adapter(["default", "other"])
        both = families.logits(peft_model)
        peft_model.merge_adapter()
        assert max(len(layer.merged_adapters) for layer in slice_layers(peft_model).values()) == 2
        assert dtype != torch.float32 or distance(families.logits(peft_model), both) <= MERGED
        assert not same(base_tensors(peft_model), before)
        peft_model.unmerge_adapter()
        assert same(base_tensors(peft_model), before)
    # In float32, the last.
    for one in ("default", "other"):
        peft_model.set_adapter(one)
        assert distance(families.logits(peft_model), both) > VISIBLE


def safe_merge_refuses_nan_and_infinity(family: str, folder: Path) -> None:
    for bad in (float("nan"), float("inf")):
        for place in (0, -1):
            peft_model = attached(family)
            before, layers = base_tensors(peft_model), slice_layers(peft_model)
            list(deltas(peft_model).values())[place].data.view(-1)[-1] = bad
            for merge in (peft_model.merge_adapter, peft_model.merge_and_unload):
                with refused_by_peft(ValueError, "NaNs detected in the merged weights. The adapter default seems"):
                    merge(safe_merge=True)
                assert same(base_tensors(peft_model), before)
                assert slice_layers(peft_model) == layers
    sound = attached(family)
    twin = copy.deepcopy(sound)
    sound.merge_adapter()
    twin.merge_adapter(safe_merge=True)
    assert same(base_tensors(twin), base_tensors(sound))


def merge_and_unload_leaves_the_plain_model(family: str, folder: Path) -> None:
    plain = families.make(family)
    peft_model = attached(family)
    expected = families.logits(peft_model)
    base = copy.deepcopy(peft_model).unload()
    assert same(base_tensors(base), base_tensors(plain))
    result = peft_model.merge_and_unload()
    assert type(result) is type(base) is type(plain)
    assert result.state_dict().keys() == base.state_dict().keys() == plain.state_dict().keys()
    assert not slice_layers(result)
    assert distance(families.logits(result), expected) <= MERGED


# -- several adapters --------------------------------------------------------------------------------------------------
def adapters_are_added_switched_and_deleted(family: str, folder: Path) -> None:
    before = base_tensors(families.make(family))
    peft_model = attached(family)
    first = families.logits(peft_model)
    peft_model.add_adapter("other", config(family, "other"))
    assert torch.equal(families.logits(peft_model), first), "adding must not activate"
    assert {id(p) for p in peft_model.parameters() if p.requires_grad} == {id(p) for p in deltas(peft_model).values()}
    peft_model.set_adapter("other")
    second = families.logits(peft_model)
    assert distance(second, first) > VISIBLE
    trained = {id(p) for p in peft_model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in deltas(peft_model, "other").values()} != set()
    peft_model.set_adapter("default")
    assert torch.equal(families.logits(peft_model), first)
    with pytest.raises(ValueError, match="Adapter nobody does not exist"):
        peft_model.delete_adapter("nobody")
    peft_model.merge_adapter()
    with pytest.raises(ValueError, match="merged"):
        peft_model.delete_adapter("default")
    peft_model.unmerge_adapter()
    peft_model.delete_adapter("other")
    assert torch.equal(families.logits(peft_model), first)
    assert not [name for name in peft_model.state_dict() if ".other." in name]
    assert same(base_tensors(peft_model), before)


def deleting_the_active_adapter_activates_another(family: str, folder: Path) -> None:
    alone = attached(family, "other")
    expected = families.logits(alone)
    peft_model = attached(family)
    peft_model.add_adapter("other", config(family, "other"))
    for name, delta in deltas(peft_model, "other").items():
        delta.data.copy_(deltas(alone)[name])
    peft_model.delete_adapter("default")
    assert peft_model.active_adapters == ["other"]
    assert torch.equal(families.logits(peft_model), expected)


def a_mixed_batch_gives_each_row_its_own(family: str, folder: Path) -> None:
    # In float64: float32 sums a row differently alone and among others, which is not what is asked here.
    _mixed(two_adapters(family, "all", "other").double(), 1e-12)


def _mixed(peft_model: PeftModel, bound: float) -> None:
    names, ids = ["default", "__base__", "other", "default"], families.tokens(rows=4)
    with torch.no_grad():
        found = peft_model(input_ids=ids, adapter_names=names).logits
    with peft_model.disable_adapter():
        expected = {"__base__": families.logits(peft_model, ids)}
    for name in ("default", "other"):
        peft_model.set_adapter(name)
        expected[name] = families.logits(peft_model, ids)
    assert min(distance(expected["other"], expected[n]) for n in ("default", "__base__")) > VISIBLE
    assert all(distance(found[row], expected[name][row]) <= bound for row, name in enumerate(names))


def a_mixed_batch_of_heads(family: str, folder: Path) -> None:
    # Experts are sent their tokens in float32, whatever the model's dtype is.
    _mixed(two_adapters(family, "heads", "heads"), 1e-6)


def what_peft_keeps_to_its_own_methods(family: str, folder: Path) -> None:
    peft_model = two_adapters(family)
    before, expected = base_tensors(peft_model), families.logits(peft_model)
    peft_model.save_pretrained(folder)
    with refused_by_peft(AttributeError, "add_weighted_adapter"):
        peft_model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "sum")
    with refused_by_peft(ValueError, "Hotswapping only supports LORA but SLICE was passed"):
        hotswap_adapter(peft_model, folder, adapter_name="default")
    with refused_by_peft(ValueError, "'SLICE' is not compatible with the `PeftMixedModel`"):
        get_peft_model(families.make(family), config(family), mixed=True)
    assert torch.equal(families.logits(peft_model), expected)
    assert same(base_tensors(peft_model), before)
