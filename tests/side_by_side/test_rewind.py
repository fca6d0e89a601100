"""Rewinding: a share of a change is that share of it, and the model comes back bit for bit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from families import make
from peft import LoraConfig, OFTConfig, get_peft_model

from benchmarks.side_by_side.training.rewind import rewound


def lab_of(base: torch.nn.Module, look) -> SimpleNamespace:
    return SimpleNamespace(model=lambda: base, score=look, forgetting=lambda model: {"forgetting": 0.5})


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_share_of_the_change_is_measured(kind):
    base, ids = make("llama").double(), torch.arange(8)[None]
    model = make("llama").double()
    if kind == "lora":
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"]))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("lora_B.default.weight") or (kind == "full" and name.endswith("lm_head.weight")):
                p.add_(1e-3 * torch.randn_like(p))
    before = {name: p.clone() for name, p in model.state_dict().items()}
    seen = []
    with torch.no_grad():
        start, whole = base(ids).logits, model(ids).logits

        def look(model, problem, rows):
            seen.append((model(ids).logits - start).norm().item())
            return 1.0

        points = rewound(lab_of(base, look), model, None, [], [])
        assert torch.equal(model(ids).logits, whole)
    assert [p["share"] for p in points] == [0.25, 0.5, 0.75]
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    change = (whole - start).norm().item()
    # One look at the test rows and one at those of validation.
    wanted = [share * change for share in (0.25, 0.25, 0.5, 0.5, 0.75, 0.75)]
    # The head is linear; a layer in the middle is nearly so for a small change.
    assert seen == pytest.approx(wanted, rel=1e-9 if kind == "full" else 0.05)


def test_what_is_no_lora_is_left_alone():
    model = get_peft_model(make("llama"), OFTConfig(target_modules=["o_proj"], r=0, oft_block_size=4))
    assert rewound(lab_of(make("llama"), pytest.fail), model, None, [], []) == []
