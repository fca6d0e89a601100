"""Layouts of the mixtures of experts."""

from __future__ import annotations

from dataclasses import replace

from .family import Family, Rows
from .llamas import LLAMA, ONE_NORM, POST_NORMS

_MIXTRAL = replace(
    LLAMA,
    model_types=("mixtral", "qwen3_moe", "mellum"),
    up=(Rows("mlp.experts.gate_up_proj"), Rows("mlp.experts.gate_up_proj", neurons=1)),
    down="mlp.experts.down_proj",
    experts="mlp.experts",
)
_GRANITE_MOE = replace(
    _MIXTRAL,
    model_types=("granitemoe",),
    up=(Rows("block_sparse_moe.experts.gate_up_proj"), Rows("block_sparse_moe.experts.gate_up_proj", neurons=1)),
    down="block_sparse_moe.experts.down_proj",
    experts="block_sparse_moe.experts",
    writes="residual_multiplier",
    logits="/logits_scaling",
)

MIXTURES: tuple[Family, ...] = (
    _MIXTRAL,
    replace(_MIXTRAL, model_types=("olmoe", "minimax_m2"), joint_norm=True),
    replace(_MIXTRAL, model_types=("flex_olmo",), joint_norm=True, norms=("", ""), post_norms=POST_NORMS),
    replace(_MIXTRAL, model_types=("cohere2_moe",), norms=ONE_NORM, parallel=True, logits="logit_scale"),
    _GRANITE_MOE,
    replace(
        _MIXTRAL,
        model_types=("gpt_oss",),
        up=(Rows("mlp.experts.gate_up_proj", stride=2), Rows("mlp.experts.gate_up_proj", offset=1, stride=2)),
        experts_transposed=True,
    ),
)
