"""A model with an adapter is scored with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import make
from peft import IA3Config, LoraConfig, get_peft_model
from scoring import same, sums
from slicing import attach

from guided_ft import localize
from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError


def test_a_model_with_an_adapter_is_scored_with_it():
    model, task = make("llama"), sums(4)
    plain = localize(model, task, methods=["fisher", "direct_logit", "attribution"], retain=None)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "o_proj", "down_proj"]))
    born = localize(adapted, task, methods=["fisher", "direct_logit", "attribution"], retain=None)
    for name in plain:
        same(plain[name], born[name], 1e-5, name)
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.5)
    trained = localize(adapted, task, methods=["fisher", "direct_logit", "attribution"], retain=None)
    merged = localize(adapted.merge_and_unload(), task, methods=["fisher", "direct_logit", "attribution"], retain=None)
    for name in plain:
        same(merged[name], trained[name], 1e-4, name)
        assert not np.allclose(plain[name].head, trained[name].head)


WEIGHED = {"written": {"method": "activation", "written": True}, "wanda": {}, "snip": {}}


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("kind", ["lora", "dora", "ia3", "slice"])
def test_what_is_weighed_are_the_weights_with_the_adapter(family, kind):
    model, task = make(family), sums(4)
    a = Anatomy.of(model)
    born = localize(model, task, methods=WEIGHED, retain=None)
    names = sorted({name.rsplit(".", 1)[-1] for name in (a.family.out, a.family.down)})
    flat = {"fan_in_fan_out": True} if family == "gpt2" else {}
    if kind == "slice":
        adapted = attach(model, "L0.H0 L0.N3 L1.N5 L1.H2")
    elif kind == "ia3":
        adapted = get_peft_model(model, IA3Config(target_modules=names, feedforward_modules=[], **flat))
    else:
        config = LoraConfig(r=2, target_modules=names, use_dora=kind == "dora", **flat)
        adapted = get_peft_model(model, config)
    torch.manual_seed(0)
    for name, p in adapted.named_parameters():
        if p.requires_grad and "lora_A" not in name:
            p.data += torch.randn_like(p) * 0.3
    # The gradient of a base weight is that of the merged one only where an adapter adds to it.
    wanted = {n: o for n, o in WEIGHED.items() if n != "snip" or kind in ("lora", "slice")}
    trained = localize(adapted, task, methods=wanted, retain=None)
    adapted.merge_adapter()
    same_as = localize(adapted, task, methods=wanted, retain=None)
    adapted.unmerge_adapter()
    merged = localize(adapted.merge_and_unload(), task, methods=wanted, retain=None)
    for name in wanted:
        same(merged[name], trained[name], 1e-4, name)
        same(merged[name], same_as[name], 1e-5, name)
        assert not np.allclose(born[name].neuron, trained[name].neuron), name


def test_an_output_head_with_an_adapter_is_refused_until_it_is_merged():
    adapted, task = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["lm_head"])), sums(3)
    with pytest.raises(GuidedError, match=r"direct_logit: the output head carries an adapter \(merge it first\)"):
        localize(adapted, task, "direct_logit", None)
    adapted.merge_adapter()
    same(localize(make("llama"), task, "direct_logit", None), localize(adapted, task, "direct_logit", None))


def test_edges_of_an_adapted_model_are_refused():
    adapted = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(GuidedError, match="carries an adapter"):
        localize(adapted, sums(2), "eap", None)
