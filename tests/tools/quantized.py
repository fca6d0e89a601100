"""Tiny models on quantized bases (bitsandbytes), and their dequantized twins."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import families
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

KINDS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}
# Wider than the other tiny models: a block of 4-bit weights is 64 long.
_SIZES = {"hidden_size": 64, "intermediate_size": 128, "n_inner": 128, "ffn_dim": 128, "word_embed_proj_dim": 64}


def make(name: str) -> PreTrainedModel:
    settings = families.FAMILIES[name]
    config = AutoConfig.for_model(name, **settings | {k: v for k, v in _SIZES.items() if k in settings})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def load(name: str, kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The family's model, saved in ``folder`` and quantized as it is loaded, in training mode."""
    path = folder / f"{name}-base"
    if not path.exists():
        make(name).save_pretrained(path)
    computed = {"bnb_4bit_compute_dtype": dtype} if kind.startswith("nf4") else {}
    config = BitsAndBytesConfig(**KINDS[kind], **computed)
    model = AutoModelForCausalLM.from_pretrained(path, quantization_config=config, dtype=dtype, device_map="cpu")
    return model.train()


def numbers(layer: Any) -> torch.Tensor:
    """What the codes of a quantized layer stand for: ``[out, in]``, by bitsandbytes alone."""
    from bitsandbytes.functional import dequantize_4bit

    weight = layer.weight
    if hasattr(weight, "quant_state"):
        return dequantize_4bit(weight.data, weight.quant_state)
    scales = weight.SCB if layer.state.SCB is None else layer.state.SCB
    return weight.data.float() * scales[:, None] / 127


def plain_twin(name: str, model: PreTrainedModel) -> PreTrainedModel:
    """An unquantized model with the numbers that a quantized one computes with."""
    twin = make(name)
    state = twin.state_dict()
    for key, tensor in model.state_dict().items():
        if key in state and tensor.shape == state[key].shape and tensor.is_floating_point():
            state[key].copy_(tensor)
    for key, layer in model.named_modules():
        if is_quantized(layer):
            mine = twin.get_submodule(key)
            mine.weight.data.copy_(numbers(layer).T if isinstance(mine, Conv1D) else numbers(layer))
    return twin.train()


def is_quantized(layer: nn.Module) -> bool:
    return type(layer).__name__ in ("Linear4bit", "Linear8bitLt")


def stored(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of everything that quantized layers keep: codes, scales, and the scales of scales."""
    found: dict[str, torch.Tensor] = {}
    for name, layer in model.named_modules():
        if not is_quantized(layer):
            continue
        name = name.removeprefix("base_model.model.").replace(".base_layer", "")
        found[f"{name}.codes"] = layer.weight.data
        if hasattr(layer.weight, "quant_state"):
            state = layer.weight.quant_state
            found |= {f"{name}.{k}": v for k, v in state.as_dict(packed=True).items()}
            assert str(layer.quant_state.as_dict()) == str(state.as_dict()), "the layer has a copy"
        else:
            found[f"{name}.scales"] = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
            codes = layer.state.CB
            assert codes is None or codes.data_ptr() == layer.weight.data_ptr()
    assert found
    return copy.deepcopy(found)


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    """In training mode: in eval mode bitsandbytes rounds activations to 8 bits on an int8 base."""
    training = model.training
    result = model.train()(input_ids=families.tokens()).logits
    model.train(training)
    return result
