"""Where the parts of each architecture family live. A new family is a new row of data.

Every entry speaks of one layer. ``Rows`` says which output rows of a projection a head or a neuron owns; its
numbers count heads' widths (for heads) or single rows (for neurons), so that one row of data serves all sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import GuidedError


@dataclass(frozen=True)
class Rows:
    """Output rows of ``module``: item ``i`` owns rows ``[start + i * stride, start + i * stride + 1)`` of its unit.

    Args:
        module: name of the projection, relative to the layer.
        heads, groups, neurons: how many query heads, key/value groups or neurons lie before the first item.
        offset: further units before the first item.
        stride: units from one item to the next.
    """

    module: str
    heads: int = 0
    groups: int = 0
    neurons: int = 0
    offset: int = 0
    stride: int = 1


@dataclass(frozen=True)
class Family:
    """The layout of one layer.

    Args:
        model_types: the ``config.model_type`` values that have this layout.
        layers: name of the list of layers in the decoder.
        query, key, value: rows of head ``j`` (query) or of its group (key, value); the unit is ``head_dim`` rows.
        out: the projection whose input columns carry head ``j`` (its input is `z`).
        up: rows of neuron ``n``; the unit is one row.
        down: the projection whose input columns carry neuron ``n`` (its input is `post`).
        transposed: weights are stored ``[in, out]`` (GPT-2's Conv1D).
        joint_norm: query and key are normalized over all heads together, so their gradients mix heads.
        norms: the norms through which attention and MLP read the residual stream, if any, relative to the layer.
        post_norms: the norms through which they write to it, if any.
        final_norm: the norm before the unembedding, relative to the decoder.
        parallel: the setting that, if true, makes attention and MLP read the same residual stream.
        read_first: the setting that, if false, puts the norms behind the residual sums.
        experts: in a mixture of experts the module that holds ``up`` and ``down`` as parameters with one matrix per
            expert, ``[experts, rows, columns]``; their rows are then those of neuron ``n`` of one expert.
        experts_transposed: the experts' matrices are stored ``[in, out]``.
    """

    model_types: tuple[str, ...]
    layers: str
    query: Rows
    key: Rows
    value: Rows
    out: str
    up: tuple[Rows, ...]
    down: str
    transposed: bool = False
    joint_norm: bool = False
    norms: tuple[str, str] = ("", "")
    post_norms: tuple[str, str] = ("", "")
    final_norm: str = "norm"
    parallel: str = ""
    read_first: str = ""
    experts: str = ""
    experts_transposed: bool = False

    def of_experts(self, name: str) -> bool:
        """Whether a projection is a parameter with one matrix per expert."""
        return bool(self.experts) and name.startswith(f"{self.experts}.")

    def rows_axis(self, name: str) -> int:
        """Axis of a projection's stored matrix (of one expert's) along which its output rows lie."""
        return int(self.experts_transposed if self.of_experts(name) else self.transposed)

    @property
    def projections(self) -> tuple[str, ...]:
        """Names of all projections, relative to the layer."""
        names = [self.query.module, self.key.module, self.value.module, self.out]
        return tuple(dict.fromkeys([*names, *(rows.module for rows in self.up), self.down]))


_LLAMA = Family(
    model_types=("llama", "mistral", "qwen2", "qwen3", "gemma"),
    layers="layers",
    query=Rows("self_attn.q_proj"),
    key=Rows("self_attn.k_proj"),
    value=Rows("self_attn.v_proj"),
    out="self_attn.o_proj",
    up=(Rows("mlp.gate_proj"), Rows("mlp.up_proj")),
    down="mlp.down_proj",
    norms=("input_layernorm", "post_attention_layernorm"),
)
_POST = ("post_attention_layernorm", "post_feedforward_layernorm")

_MIXTRAL = replace(
    _LLAMA,
    model_types=("mixtral", "qwen3_moe"),
    up=(Rows("mlp.experts.gate_up_proj"), Rows("mlp.experts.gate_up_proj", neurons=1)),
    down="mlp.experts.down_proj",
    experts="mlp.experts",
)

FAMILIES: tuple[Family, ...] = (
    _LLAMA,
    replace(
        _LLAMA,
        model_types=("gemma2", "gemma3_text", "gemma3"),
        norms=("input_layernorm", "pre_feedforward_layernorm"),
        post_norms=_POST,
    ),
    replace(_LLAMA, model_types=("olmo2",), joint_norm=True, norms=("", ""), post_norms=_POST),
    replace(
        _LLAMA,
        model_types=("phi3",),
        query=Rows("self_attn.qkv_proj"),
        key=Rows("self_attn.qkv_proj", heads=1),
        value=Rows("self_attn.qkv_proj", heads=1, groups=1),
        up=(Rows("mlp.gate_up_proj"), Rows("mlp.gate_up_proj", neurons=1)),
    ),
    Family(
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
    ),
    Family(
        model_types=("gpt_neox",),
        layers="layers",
        query=Rows("attention.query_key_value", stride=3),
        key=Rows("attention.query_key_value", offset=1, stride=3),
        value=Rows("attention.query_key_value", offset=2, stride=3),
        out="attention.dense",
        up=(Rows("mlp.dense_h_to_4h"),),
        down="mlp.dense_4h_to_h",
        norms=("input_layernorm", "post_attention_layernorm"),
        final_norm="final_layer_norm",
        parallel="use_parallel_residual",
    ),
    Family(
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
        read_first="do_layer_norm_before",
    ),
    _MIXTRAL,
    replace(_MIXTRAL, model_types=("olmoe",), joint_norm=True),
    replace(
        _MIXTRAL,
        model_types=("gpt_oss",),
        up=(Rows("mlp.experts.gate_up_proj", stride=2), Rows("mlp.experts.gate_up_proj", offset=1, stride=2)),
        experts_transposed=True,
    ),
)


def family_of(model_type: str) -> Family:
    """Look a family up by ``config.model_type``; an unknown one is a GuidedError that says how to add it."""
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(sorted(name for family in FAMILIES for name in family.model_types))
    raise GuidedError(
        f"architecture {model_type!r} is unknown: add a Family row to guided_ft/anatomy/families.py (known: {known})"
    )
