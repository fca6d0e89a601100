"""Tiny random stock models, one row per architecture family: made on the spot, so that no test needs a network."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from guided_ft.proofs.bench import frozen

HIDDEN, INTERMEDIATE, LAYERS, HEADS, VOCAB = 32, 48, 2, 4, 99

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attention_dropout": 0.0,
    # Ten times the usual value: in so small a model every part must matter enough to be seen.
    "initializer_range": 0.2,
}
_GROUPED: dict[str, Any] = _COMMON | {"intermediate_size": INTERMEDIATE, "num_key_value_heads": 2}
# Shorter than the test sequences, so that the window is felt.
_SLIDING: dict[str, Any] = {"sliding_window": 4}
_ALTERNATING: dict[str, Any] = _SLIDING | {"layer_types": ["sliding_attention", "full_attention"]}
_GEMMA: dict[str, Any] = _GROUPED | {"head_dim": 8, "query_pre_attn_scalar": 8}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _GROUPED | {"head_dim": 12},
    "mistral": _GROUPED | _SLIDING | {"head_dim": 8},
    "gemma": _GROUPED | {"head_dim": 8},
    "gemma2": _GEMMA | _ALTERNATING,
    "gemma3_text": _GEMMA | _ALTERNATING,
    "olmo2": _GROUPED,
    "phi3": _GROUPED | {"resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "gpt2": _COMMON | {"n_inner": INTERMEDIATE, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt_neox": _COMMON | {"intermediate_size": INTERMEDIATE, "hidden_dropout": 0.0},
    "opt": _COMMON | {"ffn_dim": INTERMEDIATE, "word_embed_proj_dim": HIDDEN, "dropout": 0.0, "init_std": 0.2},
}
NAMES = tuple(FAMILIES)
HEAD_DIM = {name: settings.get("head_dim", HIDDEN // HEADS) for name, settings in FAMILIES.items()}
GROUPS = {name: settings.get("num_key_value_heads", HEADS) for name, settings in FAMILIES.items()}

# Mixtures of experts, whose neurons are named L0.E1.N2; a table of their own, for tests of what is said about experts.
EXPERTS, PER_EXPERT = 3, 8
_EXPERTS: dict[str, Any] = _GROUPED | {"intermediate_size": PER_EXPERT, "num_experts_per_tok": 2}
MOE: dict[str, dict[str, Any]] = {
    "mixtral": _EXPERTS | {"num_local_experts": EXPERTS},
    "qwen3_moe": _EXPERTS | {"num_experts": EXPERTS, "moe_intermediate_size": PER_EXPERT, "head_dim": 12},
    "olmoe": _EXPERTS | {"num_experts": EXPERTS, "norm_topk_prob": False},
    "gpt_oss": _EXPERTS | _ALTERNATING | {"num_local_experts": EXPERTS, "head_dim": 8},
}
_OF_EXPERTS = ("Experts", "TopKRouter")


def make(name: str, dtype: torch.dtype = torch.float32, *, layers: int = LAYERS, seed: int = 0) -> PreTrainedModel:
    """Return the family's tiny model in eval mode; the same seed gives the same weights in every dtype."""
    settings = (FAMILIES | MOE)[name] | {"num_hidden_layers": layers}
    if layers != LAYERS:
        settings.pop("layer_types", None)
    config = AutoConfig.for_model(name, **settings)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    _roughen(model)
    for parameter in model.parameters():
        # Parameters only, as `from_pretrained` does it: model.to(dtype) would round the rotary frequencies too.
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model


@torch.no_grad()
def _roughen(model: PreTrainedModel) -> None:
    """Move biases off zero, norms off one and sinks apart, where a test could not tell them from missing ones."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            continue
        for kind, parameter in module.named_parameters(recurse=False):
            if kind.endswith("bias") or (kind in ("weight", "sinks") and parameter.ndim == 1):
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                known = isinstance(module, torch.nn.Linear | Conv1D) or type(module).__name__.endswith(_OF_EXPERTS)
                assert known, f"{type(module).__name__}.{kind}: not foreseen"
                assert parameter.std() > 0.01, f"{type(module).__name__}.{kind}: not initialized"


def tokens(rows: int = 2, length: int = 9, seed: int = 1) -> torch.Tensor:
    """Return random token ids ``[rows, length]`` without the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (rows, length), generator=generator)


@torch.no_grad()
def logits(model: torch.nn.Module, ids: torch.Tensor | None = None) -> torch.Tensor:
    # Weights that ask for gradients are multiplied in another order, which some processors round differently.
    with frozen(model):
        return model(input_ids=tokens() if ids is None else ids).logits
