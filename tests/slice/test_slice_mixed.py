"""A mixed batch gives each row what its own adapter alone would give it, or is refused; nothing is left behind."""

from __future__ import annotations

import re

import families
import pytest
import torch
from slicing import SELECTIONS, attach, slices_of

from guided_ft.errors import GuidedError
from guided_ft.slice import SliceConfig

FAMILIES = ("llama", "gpt2", "opt", "phi3")
NAMES = ["default", "__base__", "other", "default", "other"]
VISIBLE = 1e-3


def two_adapters(name: str, dtype: torch.dtype = torch.float32, one: str = "", other: str = ""):
    """Two adapters that share some rows and modules but not all."""
    model = families.make(name, dtype)
    slices = slices_of(model, other or "L0.H1 L0.N3 L1.N5 L1.N6")
    peft_model = attach(model, one or f"{SELECTIONS['groups']} L0.N3 L0.N17", changed=True)
    peft_model.add_adapter("other", SliceConfig(slices=slices, init_weights=False))
    return peft_model


def alone(peft_model, name: str, ids: torch.Tensor) -> torch.Tensor:
    if name == "__base__":
        with peft_model.disable_adapter():
            return families.logits(peft_model, ids)
    peft_model.set_adapter(name)
    return families.logits(peft_model, ids)


@torch.no_grad()
def mixed(peft_model, ids: torch.Tensor, names=NAMES, **kwargs) -> torch.Tensor:
    return peft_model(input_ids=ids, adapter_names=names, **kwargs).logits


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def refuses(message: str):
    return pytest.raises(GuidedError, match=f"^{re.escape(message)}$")


# -- beyond the law of every architecture -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "opt"])
@pytest.mark.parametrize("text", ["L0.N3 L1.N5", "L0.H1 L1.H2"])
def test_adapters_on_one_kind_of_module_only(name, text):
    """OPT hands rows and tokens to its MLP as one dimension; here nothing else is adapted."""
    peft_model, ids = two_adapters(name, one=text, other="L0.H0 L0.N9"), families.tokens(rows=len(NAMES))
    expected = {n: alone(peft_model, n, ids) for n in set(NAMES)}
    found = mixed(peft_model, ids)
    assert max((found[r] - expected[n][r]).abs().max() for r, n in enumerate(NAMES)) <= 1e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_a_padded_mixed_batch(name):
    peft_model, ids = two_adapters(name), families.tokens(rows=len(NAMES))
    mask = torch.ones_like(ids)
    mask[1:4, :3] = 0
    found = mixed(peft_model, ids, attention_mask=mask)
    for row, n in enumerate(NAMES):
        if n != "__base__":
            peft_model.set_adapter(n)
            with torch.no_grad():
                wanted = peft_model(input_ids=ids, attention_mask=mask).logits
            assert (found[row, 3:] - wanted[row, 3:]).abs().max() <= 1e-6


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", ["llama", "opt"])
def test_generation_of_a_mixed_batch(name, options):
    peft_model, ids = two_adapters(name), families.tokens(rows=len(NAMES))
    for key, p in peft_model.named_parameters():
        p.data *= 30 if "slice_delta" in key else 1
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None} | options
    found = peft_model.generate(input_ids=ids, adapter_names=NAMES, **options)
    outputs = set()
    for row, n in enumerate(NAMES):
        if n != "__base__":
            peft_model.set_adapter(n)
            wanted = peft_model.generate(input_ids=ids, **options)
            assert torch.equal(found[row], wanted[row])
            outputs.add(tuple(wanted[0].tolist()))
    assert len(outputs) == 2, "the adapters write the same"
    assert hooks(peft_model) == 0


def test_a_whole_module_that_was_saved_along_is_mixed_too():
    from peft import get_peft_model

    model = families.make("llama")
    slices = slices_of(model, "L0.N3")
    peft_model = get_peft_model(model, SliceConfig(slices=slices, init_weights=False, modules_to_save=["lm_head"]))
    with torch.no_grad():
        for p in peft_model.get_base_model().lm_head.modules_to_save.parameters():
            p.add_(torch.randn_like(p))
    ids, names = families.tokens(rows=2), ["__base__", "default"]
    expected = [alone(peft_model, n, ids) for n in names]
    found = mixed(peft_model, ids, names)
    assert (expected[0] - expected[1]).abs().max() > VISIBLE
    assert max((found[i] - expected[i][i]).abs().max() for i in (0, 1)) <= 1e-6


def test_disabled_adapters_stay_disabled():
    peft_model, ids = two_adapters("llama"), families.tokens(rows=len(NAMES))
    with peft_model.disable_adapter():
        assert torch.equal(mixed(peft_model, ids), families.logits(peft_model, ids))


# -- refusals ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["default", "othr"],
            "adapter_names: this model has no adapter 'othr' (did you mean 'other'?)",
        ),
        ("default", "adapter_names: expected one name per row of the batch, got 'default' (pass a list)"),
        ([], "adapter_names: expected one name per row of the batch, got [] (pass a list)"),
        (["default"], "adapter_names: 1 names for a batch of 2 rows (pass one name per row)"),
        (["default"] * 3, "adapter_names: 3 names for a batch of 2 rows (pass one name per row)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["llama", "opt"])
def test_names_that_do_not_fit_are_refused(name, names, message):
    # Neurons only: 2 rows of 9 tokens in OPT's flat MLP would divide by 3 names.
    peft_model = two_adapters(name, one="L0.N3", other="L0.N9")
    with refuses(message):
        mixed(peft_model, families.tokens(rows=2), names)
    assert hooks(peft_model) == 0


def test_a_merged_adapter_is_refused():
    peft_model = two_adapters("llama")
    peft_model.merge_adapter()
    with refuses("adapter_names: an adapter is merged into the base (call unmerge_adapter() first)"):
        mixed(peft_model, families.tokens(rows=len(NAMES)))
    peft_model.unmerge_adapter()
    mixed(peft_model, families.tokens(rows=len(NAMES)))


def test_training_is_refused():
    peft_model = two_adapters("llama").train()
    with refuses("adapter_names: a mixed batch is for inference (call model.eval() first)"):
        mixed(peft_model, families.tokens(rows=len(NAMES)))


def test_tokens_without_their_rows_are_refused_where_their_order_is_not_known(monkeypatch):
    from guided_ft.slice import mixed as module

    monkeypatch.setattr(module, "FLATTENS_ROW_BY_ROW", frozenset())
    peft_model = two_adapters("opt")
    with refuses(
        "adapter_names: a Linear of this model gets its tokens without their rows, so adapters cannot be told apart "
        "(run one adapter at a time)"
    ):
        mixed(peft_model, families.tokens(rows=len(NAMES)))
    assert hooks(peft_model) == 0
