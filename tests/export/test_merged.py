"""``merged`` writes a plain checkpoint and leaves the model as it was, whatever the adapter."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from families import logits, make
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from guided_ft import Anatomy, Plan, Selection
from guided_ft.export import merged

CHOSEN = "L0.H0 L0.H1 L0.N3 L1.N5"


def lora(**options):
    return get_peft_model(
        make("llama"), LoraConfig(r=2, init_lora_weights=False, target_modules=["up_proj"], **options)
    )


def slices():
    model = make("llama")
    return Plan(Selection.parse(CHOSEN, Anatomy.of(model))).attach(model)


ADAPTED = {
    "slice": slices,
    "lora": lora,
    "a module trained along": lambda: lora(modules_to_save=["lm_head"]),
    "tokens of tied embeddings": lambda: get_peft_model(
        make("gemma"), LoraConfig(r=2, target_modules=["up_proj"], trainable_token_indices={"embed_tokens": [3, 4]})
    ),
}


@pytest.fixture(params=ADAPTED)
def model(request):
    found = ADAPTED[request.param]().train()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return found


def test_the_model_can_be_trained_on(model, tmp_path):
    before, expected = copy.deepcopy(model.state_dict()), logits(model)
    where = {name: p.data_ptr() for name, p in model.named_parameters()}
    merged(model, tmp_path / "one")
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == where, "an optimizer holds them"
    assert model.training
    assert torch.equal(logits(model), expected)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "one", attn_implementation="eager")
    assert (logits(again) - expected).abs().max() <= 1e-5
    model.train()(input_ids=torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    merged(model, tmp_path / "two")
    assert (
        load_file(tmp_path / "one" / "model.safetensors").keys()
        == load_file(tmp_path / "two" / "model.safetensors").keys()
    )


def test_the_copy_shares_what_no_adapter_writes_to(monkeypatch, tmp_path):
    model = slices()
    twins = []
    real = merged.__globals__["merged_copy"]
    monkeypatch.setitem(merged.__globals__, "merged_copy", lambda m: twins.append(real(m)) or twins[0])
    merged(model, tmp_path / "model")
    mine = {p.data_ptr() for p in model.parameters()}
    copied = {name for name, p in twins[0].named_parameters() if p.data_ptr() not in mine}
    touched = {f"{name}.weight" for name in model.peft_config["default"].slices}
    assert copied == touched


def test_the_tokenizer_and_a_true_card_come_along(tmp_path):
    model, tokenizer = slices(), tiny.tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    model.peft_config["default"].base_model_name_or_path = "owner/some-model"
    merged(model, tmp_path / "model", tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template == tokenizer.chat_template
    text = (tmp_path / "model" / "README.md").read_text()
    assert "This is `owner/some-model` with a trained adapter merged in." in text
    assert "- trained: 2 heads, 2 neurons: " in text
    assert "library_name: transformers" in text
    assert "[More Information Needed]" not in text
