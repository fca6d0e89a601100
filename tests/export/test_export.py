"""What leaves guided_ft computes the same without it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import families
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from slicing import SELECTIONS, attach, slices_of
from trainers import ready

from guided_ft import Plan, Selection
from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError
from guided_ft.export import merged, to_lora
from guided_ft.slice import SliceConfig

EVERYTHING = f"{SELECTIONS['groups']} {SELECTIONS['neurons']}"
VISIBLE = 1e-2


def changed(name: str, text: str = EVERYTHING, dtype: torch.dtype = torch.float32) -> PeftModel:
    peft_model = attach(families.make(name, dtype), text, changed=True)
    for key, parameter in peft_model.named_parameters():
        parameter.data *= 5 if "slice_delta" in key else 1
    return peft_model


def same_as_lora(peft_model: PeftModel, name: str, folder, **options) -> PeftModel:
    """Load the exported LoRA and compare."""
    base, expected = families.logits(families.make(name)), families.logits(peft_model)
    assert (expected - base).abs().max() > VISIBLE
    to_lora(peft_model, folder, **options)
    again = PeftModel.from_pretrained(families.make(name), folder).eval()
    assert type(again.peft_config["default"]) is LoraConfig
    assert (families.logits(again) - expected).abs().max() <= 1e-4
    return again


# -- LoRA --------------------------------------------------------------------------------------------------------------


def test_no_rank_is_larger_than_the_matrix(family, tmp_path):
    """A whole layer has more rows than inputs."""
    model = families.make(family)
    plan = Plan(Selection.parse("L1 L0.N2", Anatomy.of(model)))
    peft_model = plan.attach(model)
    for p in peft_model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    again = same_as_lora(peft_model, family, tmp_path)
    for module in again.modules():
        if hasattr(module, "lora_A"):
            used = module.lora_A["default"].weight.abs().sum(1).count_nonzero()
            assert used <= min(module.in_features, module.out_features)


def trained(name: str, mode: str) -> PeftModel:
    """An adapter whose modules have several ranks."""
    model = families.make(name)
    peft_model = ready(model, mode).attach(model)
    torch.manual_seed(0)
    for p in peft_model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.3)
    return peft_model


@pytest.mark.parametrize("mode", ["slice", "lora", "subspace"])
def test_readers_that_look_at_no_pattern_are_right(mode, tmp_path):
    """vLLM scales by alpha / r and keeps room for r; llama.cpp scales by alpha over the rank of each tensor."""
    peft_model = trained("llama", mode)
    to_lora(peft_model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    plain = families.make("llama")
    for name in [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")]:
        a, b = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        assert len(a) == config["r"]
        weight = plain.get_submodule(name.removeprefix("base_model.model.")).weight
        weight.data += config["lora_alpha"] / len(a) * b @ a
    assert (families.logits(plain) - families.logits(peft_model)).abs().max() <= 1e-4
    assert (families.logits(plain) - families.logits(families.make("llama"))).abs().max() > VISIBLE


@pytest.mark.parametrize("name", ["gpt2", "phi3"])
@pytest.mark.parametrize("mode", ["lora", "subspace"])
def test_a_lora_of_several_ranks_becomes_one_of_one_rank(name, mode, tmp_path):
    again = same_as_lora(trained(name, mode), name, tmp_path)
    assert not again.peft_config["default"].rank_pattern


def test_it_loads_where_guided_ft_is_not_importable(tmp_path):
    families.make("llama").save_pretrained(tmp_path / "base")
    peft_model = changed("llama")
    to_lora(peft_model, tmp_path / "lora")
    save_file({"logits": families.logits(peft_model)}, tmp_path / "expected.safetensors")
    (tmp_path / "ids.json").write_text(json.dumps(families.tokens().tolist()))
    code = """
import json, sys
sys.modules["guided_ft"] = None
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained("base", attn_implementation="eager")
model = PeftModel.from_pretrained(base, "lora").eval()
with torch.no_grad():
    logits = model(input_ids=torch.tensor(json.load(open("ids.json")))).logits
print((logits - load_file("expected.safetensors")["logits"]).abs().max().item())
assert not [m for m in sys.modules if m.startswith("guided_ft.")]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) <= 1e-4


def test_another_adapter_and_a_module_that_was_saved_along(tmp_path):
    model = families.make("llama")
    peft_model = attach(model, "L0.N3", changed=True)
    config = SliceConfig(slices=slices_of(model, EVERYTHING), init_weights=False, modules_to_save=["lm_head"])
    peft_model.add_adapter("other", config)
    peft_model.set_adapter("other")
    with torch.no_grad():
        for p in peft_model.get_base_model().lm_head.modules_to_save["other"].parameters():
            p.add_(torch.randn_like(p) * 0.1)
    again = same_as_lora(peft_model, "llama", tmp_path, adapter_name="other")
    assert "lm_head" in again.peft_config["default"].modules_to_save


def test_more_than_twenty_modules(tmp_path):
    """From there on PEFT rewrites the list of targets."""
    peft_model = attach(families.make("llama", layers=4), "L0 L1.N3 L2.N* L3.H0", changed=True)
    expected = families.logits(peft_model)
    to_lora(peft_model, tmp_path)
    again = PeftModel.from_pretrained(families.make("llama", layers=4), tmp_path)
    assert len([m for m in again.modules() if hasattr(m, "lora_A")]) == len(peft_model.peft_config["default"].slices)
    assert (families.logits(again) - expected).abs().max() <= 1e-4


def test_a_bfloat16_base(tmp_path):
    peft_model = changed("llama", dtype=torch.bfloat16)
    to_lora(peft_model, tmp_path)
    assert {t.dtype for t in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
    again = PeftModel.from_pretrained(families.make("llama", torch.bfloat16), tmp_path)
    exact = families.logits(changed("llama"))
    error = (families.logits(peft_model) - exact).abs().max()
    assert (families.logits(again) - exact).abs().max() <= 1.5 * error


def test_exporting_changes_nothing(tmp_path):
    peft_model = changed("gpt2")
    before = copy.deepcopy(peft_model.state_dict())
    to_lora(peft_model, tmp_path)
    after = peft_model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


# -- merged ------------------------------------------------------------------------------------------------------------


def test_a_broken_adapter_is_not_written(tmp_path):
    peft_model = changed("llama")
    next(p for p in peft_model.parameters() if p.requires_grad).data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaNs detected"):
        merged(peft_model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


# -- refusals ----------------------------------------------------------------------------------------------------------
def _other_method(**options):
    config = (
        LoraConfig(r=2, target_modules=["up_proj"], **options)
        if options
        else IA3Config(target_modules=["up_proj"], feedforward_modules=[])
    )
    return get_peft_model(families.make("llama"), config)


@pytest.mark.parametrize(
    ("export", "model", "options", "message"),
    [
        (to_lora, families.make, {}, "export: a LlamaForCausalLM has no adapter (pass the PeftModel)"),
        (merged, families.make, {}, "export: a LlamaForCausalLM has no adapter (pass the PeftModel)"),
        (
            to_lora,
            changed,
            {"adapter_name": "defualt"},
            "adapter_name: unknown value 'defualt' (did you mean 'default'?)",
        ),
        (to_lora, lambda name: _other_method(), {}, "adapter_name: 'default' is neither a slice nor a LoRA but IA3"),
        (
            to_lora,
            lambda name: _other_method(use_dora=True),
            {},
            "to_lora: model.layers.0.mlp.up_proj: a LoRA cannot hold what a variant of LoRA computes",
        ),
        (
            to_lora,
            lambda name: _other_method(bias="lora_only"),
            {},
            "to_lora: model.layers.0.mlp.up_proj: a LoRA cannot hold biases (export.merged can)",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused(export, model, options, message, tmp_path):
    with pytest.raises(GuidedError) as error:
        export(model("llama"), tmp_path / "out", **options)
    assert str(error.value).startswith(message)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(GuidedError, match=r"already in use \(name a new or empty folder\)"):
        merged(changed("llama"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
