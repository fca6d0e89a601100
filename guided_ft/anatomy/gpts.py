"""Layouts of the families built like GPT: one module for query, key and value in one order or another, a plain MLP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .family import Family, Rows
from .llamas import ONE_NORM

_GPT2 = Family(
    model_types=("gpt2",),
    layers="h",
    query=Rows("attn.c_attn"),
    key=Rows("attn.c_attn", heads=1),
    value=Rows("attn.c_attn", heads=1, groups=1),
    out="attn.c_proj",
    up=(Rows("mlp.c_fc"),),
    down="mlp.c_proj",
    transposed=True,
    norms=("ln_1", "ln_2"),
    final_norm="ln_f",
)
_BIGCODE = replace(_GPT2, model_types=("gpt_bigcode",), transposed=False)
_GPT_NEO = replace(
    _GPT2,
    model_types=("gpt_neo",),
    query=Rows("attn.attention.q_proj"),
    key=Rows("attn.attention.k_proj"),
    value=Rows("attn.attention.v_proj"),
    out="attn.attention.out_proj",
    transposed=False,
)
_GPTJ = replace(
    _GPT_NEO,
    model_types=("gptj",),
    query=Rows("attn.q_proj"),
    key=Rows("attn.k_proj"),
    value=Rows("attn.v_proj"),
    out="attn.out_proj",
    up=(Rows("mlp.fc_in"),),
    down="mlp.fc_out",
    norms=("ln_1", "ln_1"),
    parallel=True,
)


def _by_head(module: str) -> dict[str, Any]:
    """One module with the query, key and value of the first head, then those of the next."""
    parts = ("query", "key", "value")
    return {part: Rows(module, offset=i, stride=3) for i, part in enumerate(parts)}


_NEOX = Family(
    model_types=("gpt_neox",),
    layers="layers",
    **_by_head("attention.query_key_value"),
    out="attention.dense",
    up=(Rows("mlp.dense_h_to_4h"),),
    down="mlp.dense_4h_to_h",
    norms=("input_layernorm", "post_attention_layernorm"),
    final_norm="final_layer_norm",
    parallel="use_parallel_residual",
)
_BLOOM = replace(
    _NEOX,
    model_types=("bloom",),
    layers="h",
    **_by_head("self_attention.query_key_value"),
    out="self_attention.dense",
    final_norm="ln_f",
    parallel=False,
    stream=(("apply_residual_connection_post_layernorm", False),),
)
_FALCON = replace(_BLOOM, model_types=("falcon",), parallel="parallel_attn", stream=())
_FALCON_GROUPED = replace(
    _FALCON,
    query=Rows("self_attention.query_key_value", by_group=True),
    key=Rows("self_attention.query_key_value", by_group=True, heads=1),
    value=Rows("self_attention.query_key_value", by_group=True, heads=1, groups=1),
)
_NEW, _OLD = ("new_decoder_architecture", True), ("new_decoder_architecture", False)

_OPT = Family(
    model_types=("opt",),
    layers="layers",
    query=Rows("self_attn.q_proj"),
    key=Rows("self_attn.k_proj"),
    value=Rows("self_attn.v_proj"),
    out="self_attn.out_proj",
    up=(Rows("fc1"),),
    down="fc2",
    norms=("self_attn_layer_norm", "final_layer_norm"),
    final_norm="final_layer_norm",
    stream=(("do_layer_norm_before", True),),
)

GPTS: tuple[Family, ...] = (
    _GPT2,
    replace(_BIGCODE, when=(("multi_query", True),)),
    replace(_BIGCODE, name="gpt_bigcode_multi_head", when=(("multi_query", False),), **_by_head("attn.c_attn")),
    _GPT_NEO,
    _GPTJ,
    _NEOX,
    replace(
        _NEOX,
        model_types=("persimmon",),
        **_by_head("self_attn.query_key_value"),
        out="self_attn.dense",
        final_norm="final_layernorm",
        parallel=False,
    ),
    _BLOOM,
    # The 7B: one key and value for all heads, behind the queries.
    replace(
        _FALCON,
        name="falcon_multi_query",
        when=(_OLD, ("multi_query", True), ("parallel_attn", True)),
        query=Rows("self_attention.query_key_value"),
        key=Rows("self_attention.query_key_value", heads=1),
        value=Rows("self_attention.query_key_value", heads=1, groups=1),
        norms=ONE_NORM,
    ),
    # The 40B: a block for each group, and two norms; the 11B has one.
    replace(
        _FALCON_GROUPED,
        name="falcon_grouped",
        when=(_NEW, ("num_ln_in_parallel_attn", 2)),
        norms=("ln_attn", "ln_mlp"),
        parallel=True,
    ),
    replace(
        _FALCON_GROUPED,
        name="falcon_grouped_one_norm",
        when=(_NEW, ("num_ln_in_parallel_attn", 1)),
        norms=ONE_NORM,
        parallel=True,
    ),
    # The rw: query, key and value of each head in turn.
    replace(_FALCON, name="falcon_rw", when=(_OLD, ("multi_query", False), ("parallel_attn", False))),
    replace(
        _GPT2,
        model_types=("mpt",),
        layers="blocks",
        query=Rows("attn.Wqkv"),
        key=Rows("attn.Wqkv", heads=1),
        value=Rows("attn.Wqkv", heads=1, groups=1),
        out="attn.out_proj",
        up=(Rows("ffn.up_proj"),),
        down="ffn.down_proj",
        transposed=False,
        norms=("norm_1", "norm_2"),
        final_norm="norm_f",
    ),
    _OPT,
    replace(_OPT, model_types=("xglm", "biogpt"), final_norm="layer_norm", stream=()),
)
