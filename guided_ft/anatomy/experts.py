"""Layouts of the mixtures of experts."""

from __future__ import annotations

from dataclasses import replace

from .family import Family, Rows
from .llamas import GEMMA4, LLAMA, ONE_NORM, POST_NORMS

_MLP = ("gate_proj", "up_proj", "down_proj")
_DENSE = tuple(f"mlp.{name}" for name in _MLP)
"""The MLP of layers without experts, among others with."""
_SHARED = tuple(f"mlp.shared_expert.{name}" for name in _MLP)
_SHARED_ONES = tuple(f"mlp.shared_experts.{name}" for name in _MLP)

_MIXTRAL = replace(
    LLAMA,
    model_types=("mixtral", "qwen3_moe", "mellum", "phimoe"),
    up=(Rows("mlp.experts.gate_up_proj"), Rows("mlp.experts.gate_up_proj", neurons=1)),
    down="mlp.experts.down_proj",
    experts="mlp.experts",
    beside=_DENSE,
)
_QWEN2_MOE = replace(_MIXTRAL, model_types=("qwen2_moe",), beside=_DENSE + _SHARED)
_GLM4_MOE = replace(
    _MIXTRAL,
    model_types=("glm4_moe", "ernie4_5_moe", "exaone_moe", "solar_open", "dots1"),
    beside=_DENSE + _SHARED_ONES,
)
_GRANITE_MOE = replace(
    _MIXTRAL,
    model_types=("granitemoe",),
    up=(Rows("block_sparse_moe.experts.gate_up_proj"), Rows("block_sparse_moe.experts.gate_up_proj", neurons=1)),
    down="block_sparse_moe.experts.down_proj",
    experts="block_sparse_moe.experts",
    beside=(),
    writes="residual_multiplier",
    logits="/logits_scaling",
)
_DEEPSEEK = replace(
    _GLM4_MOE,
    model_types=("deepseek_v2", "deepseek_v3", "glm4_moe_lite"),
    query=Rows("self_attn.q_b_proj", free=True),
    key=Rows("self_attn.kv_b_proj", free=True),
    value=Rows("self_attn.kv_b_proj", free=True),
    beside=(*_GLM4_MOE.beside, "self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"),
    unproved=("reads",),
)
_GATED_QUERY = Rows("self_attn.q_proj", free=True)
"""Behind the query of each head stand as many rows of its output gate."""

MIXTURES: tuple[Family, ...] = (
    _MIXTRAL,
    _QWEN2_MOE,
    replace(
        _QWEN2_MOE,
        model_types=("qwen3_next", "qwen3_5_moe_text"),
        query=_GATED_QUERY,
        beside=(*_QWEN2_MOE.beside, *(f"linear_attn.in_proj_{n}" for n in ("qkvz", "ba", "qkv", "z", "b", "a"))),
    ),
    _GLM4_MOE,
    replace(_MIXTRAL, model_types=("olmoe", "minimax_m2"), joint_norm=True),
    replace(_MIXTRAL, model_types=("flex_olmo",), joint_norm=True, norms=("", ""), post_norms=POST_NORMS),
    replace(_MIXTRAL, model_types=("cohere2_moe",), norms=ONE_NORM, parallel=True, logits="logit_scale"),
    _GRANITE_MOE,
    replace(
        _GRANITE_MOE,
        model_types=("granitemoeshared", "granitemoehybrid"),
        beside=("shared_mlp.input_linear", "shared_mlp.output_linear", "mamba.in_proj"),
        unproved=("writes",),
    ),
    replace(
        _MIXTRAL,
        model_types=("hunyuan_v1_moe",),
        beside=tuple(f"mlp.shared_mlp.{name}" for name in _MLP),
    ),
    replace(_GLM4_MOE, model_types=("aria_text",), experts_transposed=True),
    replace(
        _MIXTRAL,
        model_types=("gpt_oss",),
        up=(Rows("mlp.experts.gate_up_proj", stride=2), Rows("mlp.experts.gate_up_proj", offset=1, stride=2)),
        experts_transposed=True,
    ),
    # Experts beside the MLP.
    replace(
        GEMMA4,
        name="gemma4_moe",
        when=(("num_kv_shared_layers", 0), ("enable_moe_block", True)),
        up=(Rows("experts.gate_up_proj"), Rows("experts.gate_up_proj", neurons=1)),
        down="experts.down_proj",
        experts="experts",
        norms=("input_layernorm", "pre_feedforward_layernorm_2"),
        beside=(*GEMMA4.beside, *_DENSE),
    ),
    # Without a latent vector for the queries (V2-Lite).
    replace(_DEEPSEEK, name="latent_keys", when=(("q_lora_rank", None),), query=Rows("self_attn.q_proj", free=True)),
    _DEEPSEEK,
)
