"""Layouts of the families built like Llama: separate or fused projections, a gated MLP or a plain one."""

from __future__ import annotations

from dataclasses import replace

from .family import Family, Rows

LLAMA = Family(
    model_types=(
        "llama",
        "mistral",
        "ministral",
        "ministral3",
        "qwen2",
        "qwen2_vl_text",
        "qwen2_5_vl_text",
        "qwen3",
        "qwen3_vl_text",
        "gemma",
        "smollm3",
        "ernie4_5",
        "hunyuan_v1_dense",
        "helium",
        "seed_oss",
        "cwm",
    ),
    layers="layers",
    query=Rows("self_attn.q_proj"),
    key=Rows("self_attn.k_proj"),
    value=Rows("self_attn.v_proj"),
    out="self_attn.o_proj",
    up=(Rows("mlp.gate_proj"), Rows("mlp.up_proj")),
    down="mlp.down_proj",
    norms=("input_layernorm", "post_attention_layernorm"),
)
ONE_NORM = ("input_layernorm", "input_layernorm")
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
GEMMA4 = replace(
    LLAMA,
    model_types=("gemma4_text",),
    when=(("num_kv_shared_layers", 0), ("enable_moe_block", False)),
    norms=("input_layernorm", "pre_feedforward_layernorm"),
    post_norms=POST_NORMS,
    beside=("per_layer_input_gate", "per_layer_projection"),
    unproved=("writes",),
)
_PHI3 = replace(
    LLAMA,
    model_types=("phi3",),
    query=Rows("self_attn.qkv_proj"),
    key=Rows("self_attn.qkv_proj", heads=1),
    value=Rows("self_attn.qkv_proj", heads=1, groups=1),
    up=(Rows("mlp.gate_up_proj"), Rows("mlp.gate_up_proj", neurons=1)),
)
_GLM = replace(LLAMA, model_types=("glm",), up=_PHI3.up)
_STABLELM = replace(LLAMA, model_types=("stablelm",), when=(("use_parallel_residual", False),))
_STARCODER2 = replace(LLAMA, model_types=("starcoder2",), up=(Rows("mlp.c_fc"),), down="mlp.c_proj")

_JAMBA = replace(
    LLAMA,
    model_types=("jamba", "bamba"),
    up=(Rows("feed_forward.gate_proj"), Rows("feed_forward.up_proj")),
    down="feed_forward.down_proj",
    norms=("input_layernorm", "pre_ff_layernorm"),
    final_norm="final_layernorm",
    beside=("mamba.in_proj",),
)

_YOUTU = replace(
    LLAMA,
    model_types=("youtu",),
    query=Rows("self_attn.q_b_proj", free=True),
    key=Rows("self_attn.kv_b_proj", free=True),
    value=Rows("self_attn.kv_b_proj", free=True),
    beside=("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"),
    unproved=("reads",),
)

LLAMAS: tuple[Family, ...] = (
    LLAMA,
    replace(LLAMA, model_types=("granite",), writes="residual_multiplier", logits="/logits_scaling"),
    replace(
        LLAMA,
        model_types=("gemma2", "gemma3_text"),
        norms=("input_layernorm", "pre_feedforward_layernorm"),
        post_norms=POST_NORMS,
    ),
    # Layers end in a factor of their own. Those of global attention have wider heads, which are not known here. Where
    # layers use the keys and values of others, these cannot be left out.
    GEMMA4,
    replace(LLAMA, model_types=("vaultgemma",), norms=("input_layernorm", "pre_feedforward_layernorm")),
    replace(LLAMA, model_types=("olmo",)),
    replace(LLAMA, model_types=("olmo2", "olmo3"), joint_norm=True, norms=("", ""), post_norms=POST_NORMS),
    replace(LLAMA, model_types=("exaone4",), norms=("", ""), post_norms=POST_NORMS),
    replace(LLAMA, model_types=("cohere", "cohere2"), norms=ONE_NORM, parallel=True, logits="logit_scale"),
    _STABLELM,
    replace(
        _STABLELM, name="stablelm_parallel", when=(("use_parallel_residual", True),), norms=ONE_NORM, parallel=True
    ),
    _PHI3,
    _GLM,
    replace(_GLM, model_types=("glm4",), post_norms=("post_self_attn_layernorm", "post_mlp_layernorm")),
    replace(LLAMA, model_types=("arcee", "nemotron", "jais2"), up=(Rows("mlp.up_proj"),)),
    replace(
        LLAMA,
        model_types=("apertus",),
        up=(Rows("mlp.up_proj"),),
        norms=("attention_layernorm", "feedforward_layernorm"),
    ),
    replace(LLAMA, model_types=("nanochat",), up=(Rows("mlp.fc1"),), down="mlp.fc2"),
    _STARCODER2,
    replace(
        LLAMA,
        model_types=("phi",),
        out="self_attn.dense",
        up=(Rows("mlp.fc1"),),
        down="mlp.fc2",
        norms=ONE_NORM,
        final_norm="final_layernorm",
        parallel=True,
    ),
    # Where layers mix tokens otherwise (linear attention, convolutions, state spaces), only the others have heads. Of
    # those mixers the first projections alone are known: fused kernels take the weights of the others themselves.
    replace(
        LLAMA,
        model_types=("qwen3_5_text",),
        query=Rows("self_attn.q_proj", free=True),
        beside=tuple(f"linear_attn.in_proj_{name}" for name in ("qkv", "z", "b", "a")),
    ),
    replace(
        LLAMA,
        model_types=("lfm2",),
        out="self_attn.out_proj",
        up=(Rows("feed_forward.w1"), Rows("feed_forward.w3")),
        down="feed_forward.w2",
        norms=("operator_norm", "ffn_norm"),
        final_norm="embedding_norm",
        beside=("conv.in_proj",),
    ),
    _JAMBA,
    # Attention and a state space side by side in every layer.
    replace(_JAMBA, model_types=("falcon_h1",), logits="lm_head_multiplier", mixed=True, unproved=("writes", "reads")),
    # Each layer mixes tokens or is an MLP.
    replace(
        LLAMA,
        model_types=("nemotron_h",),
        query=Rows("mixer.q_proj"),
        key=Rows("mixer.k_proj"),
        value=Rows("mixer.v_proj"),
        out="mixer.o_proj",
        up=(Rows("mixer.up_proj"),),
        down="mixer.down_proj",
        norms=("norm", "norm"),
        final_norm="norm_f",
        beside=("mixer.in_proj",),
        unproved=("writes", "reads"),
    ),
    _YOUTU,
    replace(_YOUTU, model_types=("minicpm3",), unproved=("writes", "reads", "logits")),
    # Their experts are given all tokens, which is not known here: neurons are those of the expert that all share, or in
    # the model that has them, of the MLP of the layers without experts.
    replace(
        LLAMA,
        model_types=("llama4_text",),
        when=(("interleave_moe_layer_step", 1),),
        up=(Rows("feed_forward.shared_expert.gate_proj"), Rows("feed_forward.shared_expert.up_proj")),
        down="feed_forward.shared_expert.down_proj",
        unproved=("writes",),
    ),
    replace(
        _JAMBA,
        name="llama4_interleaved",
        model_types=("llama4_text",),
        norms=LLAMA.norms,
        final_norm="norm",
        beside=tuple(f"feed_forward.shared_expert.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
    ),
)
