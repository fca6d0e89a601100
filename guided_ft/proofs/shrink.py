"""A tiny config with the same settings as a large one: every choice is kept, every size is cut down."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..errors import GuidedError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

HEADS, GROUPS, HEAD_DIM, VOCAB, LAYERS = 4, 2, 16, 100, 2

Sizes = tuple[tuple[str, int], ...]
"""Patterns of names of settings, the first that fits counts, and the value that they get."""

_SIZES: Sizes = (
    (r"vocab_size(_\w+)?", VOCAB),
    (r"pad_token_id", 0),
    (r"(bos|eos|sep|cls|unk)_token_id", 1),
    (r"num_attention_heads|n_heads?|num_heads|attention_heads", HEADS),
    (r"num_hidden_layers|n_layers?|num_layers", LAYERS),
    (r"shared_\w*intermediate_size|shared_expert_\w+size", 24),
    (r"moe_intermediate_size|expert_\w*intermediate_size", 24),
    (r"\w*intermediate_size\w*|n_inner|ffn_dim|ffn_hidden_size|d_ff|block_ff_dim|intermediate_dim", 40),
    (r"num_(local_)?experts|n_routed_experts|moe_num_experts", 4),
    (r"top_k_experts|num_experts_per_tok|moe_k|moe_topk|num_selected_experts|moe_num_experts_per_tok", 2),
    (r"n_group|topk_group|(mamba_)?n_groups", 1),
    (r"n_shared_experts|moe_num_shared_experts|num_shared_experts", 1),
    (r"(q|kv)_lora_rank", 24),
    (r"qk_rope_head_dim", 8),
    (r"qk_nope_head_dim", 16),
    (r"v_head_dim", 12),
    (r"max_position_embeddings|n_positions|max_seq_len|n_ctx|original_max_position_embeddings", 64),
    # Shorter than the texts of the proof, so that the window is felt.
    (r"sliding_window|attention_chunk_size|window_size", 4),
    (r"(linear|mamba)_num_\w+_heads", 2),
    (r"linear_(key|value)_head_dim", 8),
    (r"mamba_n_heads|mamba_num_heads", 4),
    (r"mamba_d_head|mamba_head_dim", 16),
    (r"mamba_d_ssm", 64),
    (r"mamba_d_state|ssm_state_size", 8),
    (r"mamba_chunk_size|chunk_size", 4),
    (r"mamba_dt_rank", 4),
    # Layers of every kind among the few that are left.
    (
        r"full_attention_interval|attn_layer_period|expert_layer_period|sliding_window_pattern|interleave_moe_layer_step",
        2,
    ),
    (r"attn_layer_offset|expert_layer_offset|first_k_dense_replace|moe_layer_start_index", 1),
    (r"moe_layer_end_index", LAYERS - 1),
    (r"logits_per_layer_input|hidden_size_per_layer_input", 8),
)
_SHARING = "num_kv_shared_layers"
"""How many of the last layers use the keys and values of layers before them."""
_APART = "per_layer_config"
"""Settings of single layers, by their number."""
_NOISE = r"\w*(dropout|pdrop|layerdrop|jitter\w*)\w*"
_WIDTHS = r"hidden_size|n_embd|d_model|word_embed_proj_dim|embed_dim"


def shrink(config: PreTrainedConfig) -> Any:
    """Return a tiny copy of a config, of the same class: some layers of each kind, four heads, 100 tokens.

    Raises:
        GuidedError: if the config's class does not take what was cut down.
    """
    settings = config.to_dict()
    kept = config._attn_implementation if hasattr(config, "_attn_implementation") else None
    try:
        tiny = type(config)(**_shrunk(settings, config))
    except Exception as error:  # whatever a config of anyone's raises
        words = " ".join(str(error).split())[:200]
        raise GuidedError(
            f"{config.model_type}: its config cannot be made small ({type(error).__name__}: {words})"
        ) from None
    if kept is not None:
        tiny._attn_implementation = "eager"
    return tiny


def _shrunk(settings: dict[str, Any], config: PreTrainedConfig) -> dict[str, Any]:
    inside = {k: v for k, v in settings.items() if isinstance(v, dict) and "model_type" in v}
    heads = _first(settings, "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
    kept = _attention(settings, heads) if isinstance(heads, int) else _widths(settings)
    found: dict[str, Any] = dict(kept)
    layers = _first(settings, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    chosen = _kinds(settings, layers) if isinstance(layers, int) else []
    if chosen and settings.get(_SHARING):
        found[_SHARING] = sum(i >= layers - settings[_SHARING] for i in chosen)
    if chosen and settings.get(_APART):
        found[_APART] = {chosen.index(int(i)): _apart(v) for i, v in settings[_APART].items() if int(i) in chosen}
    for name, value in settings.items():
        if name in inside or name in found:
            continue
        if isinstance(layers, int) and isinstance(value, list) and len(value) == layers:
            found[name] = [value[i] for i in chosen]
        else:
            found[name] = _small(name, value)
    for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        if name in settings and name not in kept and chosen:
            found[name] = len(chosen)
    for name, part in inside.items():
        found[name] = _shrunk(part, getattr(config, name))
    for name in (
        "_name_or_path",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "auto_map",
        "id2label",
        "label2id",
        "quantization_config",
    ):
        found.pop(name, None)
    return found


def _first(settings: dict[str, object], *names: str) -> Any:
    return next((settings[name] for name in names if settings.get(name) is not None), None)


def _widths(settings: dict[str, Any]) -> dict[str, Any]:
    """Where there are no heads."""
    widths = _WIDTHS + "|attention_hidden_size"
    return {k: HEADS * HEAD_DIM for k, v in settings.items() if re.fullmatch(widths, k) and isinstance(v, int)}


def _attention(settings: dict[str, Any], heads: int) -> dict[str, Any]:
    """Widths that belong together: four heads of 16, in one, two or four groups, as the model has them."""
    found: dict[str, Any] = {}
    width = _first(settings, "hidden_size", "n_embd", "d_model")
    own = settings.get("head_dim")
    apart = isinstance(own, int) and isinstance(width, int) and own * heads != width
    for name, value in settings.items():
        if re.fullmatch(_WIDTHS, name) and isinstance(value, int):
            found[name] = 48 if apart else HEADS * HEAD_DIM
        elif name in ("num_key_value_heads", "num_kv_heads", "multi_query_group_num") and isinstance(value, int):
            found[name] = HEADS if value == heads else 1 if value == 1 else GROUPS
        elif re.fullmatch(r"(global_)?head_dim|attention_head_dim|rotary_dim", name) and isinstance(value, int):
            # Latent attention calls its rotary part so.
            part = name == "rotary_dim" or settings.get("qk_rope_head_dim") == value
            found[name] = HEAD_DIM // 2 if part else HEAD_DIM
    if (
        isinstance(settings.get("mamba_expand"), int)
        and "mamba_n_heads" in settings
        and not settings.get("mamba_d_ssm")
    ):
        found["mamba_n_heads"] = settings["mamba_expand"] * HEADS * HEAD_DIM // HEAD_DIM
    if isinstance(settings.get("expand"), int) and "num_heads" in settings:
        # A state space with heads: all of them are as wide as what is expanded.
        found |= {"hidden_size": HEADS * HEAD_DIM, "head_dim": HEAD_DIM, "num_heads": settings["expand"] * HEADS}
    if settings.get("attn_layer_indices"):
        found["attn_layer_indices"] = [1]
    if "attn_layer_period" in settings:
        # Attention and not, experts and not: the four kinds of layers.
        found |= {"num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 0}
    return found


def _kinds(settings: dict[str, Any], layers: int) -> list[int]:
    """Numbers of layers so that each kind that the config tells apart is among them; at least two."""
    lists = [v for v in settings.values() if isinstance(v, list) and len(v) == layers]
    lists += [[i >= layers - settings[_SHARING] for i in range(layers)]] if settings.get(_SHARING) else []
    kinds: dict[str, int] = {}
    for i in range(layers):
        kinds.setdefault(str([column[i] for column in lists]), i)
    chosen = sorted(kinds.values())[:4]
    chosen += [i for i in range(layers) if i not in chosen][: max(0, LAYERS - len(chosen))]
    return sorted(chosen)


def _apart(settings: dict[str, object]) -> dict[str, Any]:
    """Settings of a layer that is unlike the others, and stays so: heads twice as wide, in a single group."""
    other = {"head_dim": 2 * HEAD_DIM, "num_key_value_heads": 1}
    return {name: other.get(name, _small(name, value)) for name, value in settings.items()}


def _small(name: str, value: object) -> Any:
    if isinstance(value, dict):
        return (
            {k: _small_rope(k, v) for k, v in value.items()}
            if "rope" in name
            else {k: _small(str(k), v) for k, v in value.items()}
        )
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float) and re.fullmatch(_NOISE, name):
        return 0.0
    if re.fullmatch(r"initializer_range|init_std|initializer_factor", name):
        return 0.2
    if isinstance(value, list) and re.fullmatch(r"\w+_token_id", name):
        return 1
    if isinstance(value, int):
        small = next((small for pattern, small in _SIZES if re.fullmatch(pattern, name)), value)
        # A count may be small already, or 0; sizes belong together.
        return min(value, small) if 0 <= value <= small <= 4 or value == 0 else small
    return value


def _small_rope(name: str, value: object) -> Any:
    """Rotary settings: sections and factors for each pair of a head's 16 dimensions."""
    if isinstance(value, dict):
        return {k: _small_rope(k, v) for k, v in value.items()}
    if name == "mrope_section":
        return [2, 3, 3]
    if isinstance(value, list):
        return value[: HEAD_DIM // 2]
    return _small(name, value)
