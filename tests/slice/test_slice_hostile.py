"""An adapter file that does not fit its configuration is refused by name, never loaded in part."""

from __future__ import annotations

import pytest
import torch
from families import logits, make
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from guided_ft import GuidedError, Plan, Selection
from guided_ft.anatomy import Anatomy
from guided_ft.slice import SliceConfig

KEY = "base_model.model.model.layers.1.mlp.up_proj.slice_delta"


def _saved(folder):
    model = make("llama")
    plan = Plan(Selection.parse("L0.H1 L1.N5 L1.N9", Anatomy.of(model)))
    attached = plan.attach(model)
    for p in attached.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p)
    attached.save_pretrained(folder)
    return attached


def _nan(t):
    t = t.clone()
    t[0, 0] = float("nan")
    return t


@pytest.mark.parametrize(
    ("kind", "damage", "said"),
    [
        ("weight", None, "weight is missing, not (2, 32)"),
        ("index", None, "index is missing, not (2,)"),
        ("weight", _nan, "weight holds impossible values"),
        ("weight", lambda t: t[:1].clone(), "weight has shape (1, 32), not (2, 32)"),
        ("index", lambda t: t - 10, "index holds impossible values"),
        ("index", lambda t: t * 0, "index holds impossible values"),
        ("index", lambda t: t.float(), "index holds impossible values"),
        ("index", lambda t: t + 10**6, "index holds impossible values"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, kind, damage, said):
    _saved(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    old = tensors.pop(f"{KEY}.{kind}")
    if damage:
        tensors[f"{KEY}.{kind}"] = damage(old)
    save_file(tensors, path)
    with pytest.raises(GuidedError) as error:
        PeftModel.from_pretrained(make("llama"), tmp_path)
    assert said in str(error.value)


def test_the_whole_file_loads(tmp_path):
    attached = _saved(tmp_path)
    again = PeftModel.from_pretrained(make("llama"), tmp_path).eval()
    assert torch.equal(logits(again), logits(attached.eval()))


def test_a_layer_that_hides_its_weight_is_refused_by_name():
    class Packed(torch.nn.Module):
        in_features, out_features = 32, 48

    model = make("llama")
    model.model.layers[0].mlp.up_proj = Packed()
    config = SliceConfig(slices={"model.layers.0.mlp.up_proj": {"axis": 0, "index": "3"}}, task_type="CAUSAL_LM")
    with pytest.raises(GuidedError, match=r"up_proj: slice: Packed keeps its weight in a way that is not known"):
        get_peft_model(model, config)
