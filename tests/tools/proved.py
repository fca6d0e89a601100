"""The table of families that are proved on tiny random copies of their configs, and the page that says so.

    python tests/tools/proved.py    # writes guided_ft/anatomy/FAMILIES.md; needs the package on the path

``test_families.py`` proves every row: that the layout is the one named, and that all holds but what the row leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import families
from transformers import AutoConfig

import guided_ft.anatomy
from guided_ft.anatomy import PROVED_APART

PAGE = Path(guided_ft.anatomy.__file__).parent / "FAMILIES.md"


@dataclass(frozen=True)
class Known:
    """One row.

    Args:
        model_type: of the config.
        layout: the row of ``FAMILIES`` that it has.
        settings: what its config is made with, where the defaults of its class make no model or another layout.
        label: what to call it, if not by its type.
        unproved: of ``PROVED_APART``.
        apart: what of the layers is refused by name, because it is not known.
        cached: whether the prefix cache helps (elsewhere the whole pass runs as ever).
        how: "row", "wrapper" (a model around a text model), "alike" (without a row; proved on first use) or "linear" (the
            same, with layers and directions alone).
    """

    model_type: str
    layout: str
    settings: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    unproved: tuple[str, ...] = ()
    apart: str = ""
    cached: bool = True
    how: str = "row"

    @property
    def name(self) -> str:
        return self.label or self.model_type

    def config(self) -> Any:
        return AutoConfig.for_model(self.model_type, **self.settings)


_MIXER = "heads of layers without attention"
_DENSE = "neurons of layers without experts"
_WIDE = "heads of global attention, which are wider"
_GEMMA4_31B = {"hidden_size_per_layer_input": 0, "attention_k_eq_v": True, "num_global_key_value_heads": 2}
_GEMMA4_MOE = {
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 2,
    "moe_intermediate_size": 64,
} | _GEMMA4_31B
_DEEPSEEK = {"num_experts_per_tok": 6}
_DOTS1 = {"n_routed_experts": 8, "moe_intermediate_size": 64, "n_shared_experts": 2, "num_experts_per_tok": 6}
_LLAMA4 = {"pad_token_id": 0}


def _rows(layout: str, *model_types: str, **settings: Any) -> list[Known]:
    return [Known(model_type, layout, settings) for model_type in model_types]


_GRANITE = {"residual_multiplier": 0.22, "embedding_multiplier": 12.0, "logits_scaling": 8.0}
_SHARED = {"shared_intermediate_size": 1024}
_FALCON_40B = {"new_decoder_architecture": True, "hidden_size": 8192, "num_attention_heads": 128, "num_kv_heads": 8}
_FALCON_RW = {"multi_query": False, "parallel_attn": False, "alibi": True, "hidden_size": 2048}
_QWEN_VL = {
    "text_config": {"rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}}
}

TABLE: tuple[Known, ...] = (
    *_rows("llama", "llama", "mistral", "ministral3", "qwen2", "qwen3", "gemma", "smollm3", "ernie4_5", "helium"),
    *_rows("llama", "seed_oss", "cwm"),
    *_rows("llama", "ministral", "hunyuan_v1_dense", head_dim=128),
    Known("granite", "granite", _GRANITE),
    *_rows("gemma2", "gemma2", "gemma3_text"),
    Known("gemma3_text", "gemma2", {"use_bidirectional_attention": True}, "gemma3_text, attention both ways"),
    Known("gemma4_text", "gemma4_text", unproved=("writes",), apart=_WIDE),
    Known("gemma4_text", "gemma4_text", _GEMMA4_31B, "gemma4_text, no embeddings a layer", ("writes",), _WIDE),
    *_rows("vaultgemma", "vaultgemma"),
    *_rows("olmo", "olmo"),
    *_rows("olmo2", "olmo2", "olmo3"),
    *_rows("exaone4", "exaone4"),
    *_rows("cohere", "cohere", "cohere2"),
    *_rows("stablelm", "stablelm"),
    Known("stablelm", "stablelm_parallel", {"use_parallel_residual": True, "qk_layernorm": True}, "stablelm, parallel"),
    *_rows("phi3", "phi3"),
    *_rows("glm", "glm"),
    *_rows("glm4", "glm4"),
    *_rows("arcee", "arcee", "jais2"),
    *_rows("arcee", "nemotron", num_key_value_heads=8),
    *_rows("apertus", "apertus"),
    *_rows("nanochat", "nanochat"),
    *_rows("starcoder2", "starcoder2"),
    *_rows("phi", "phi", qk_layernorm=True),
    *_rows("gpt2", "gpt2"),
    *_rows("gpt_bigcode", "gpt_bigcode"),
    Known("gpt_bigcode", "gpt_bigcode_multi_head", {"multi_query": False}, "gpt_bigcode, a key for each head"),
    *_rows("gpt_neo", "gpt_neo"),
    *_rows("gptj", "gptj"),
    *_rows("gpt_neox", "gpt_neox"),
    *_rows("persimmon", "persimmon"),
    *_rows("bloom", "bloom"),
    Known(
        "bloom",
        "bloom",
        {"apply_residual_connection_post_layernorm": True},
        "bloom, norms in the stream",
        unproved=("writes", "reads", "logits"),
    ),
    Known("falcon", "falcon_multi_query", label="falcon 7B"),
    Known("falcon", "falcon_grouped", _FALCON_40B, "falcon 40B"),
    Known("falcon", "falcon_grouped_one_norm", _FALCON_40B | {"num_ln_in_parallel_attn": 1}, "falcon 11B"),
    Known("falcon", "falcon_rw", _FALCON_RW | {"num_attention_heads": 32}, "falcon rw"),
    *_rows("mpt", "mpt"),
    *_rows("opt", "opt"),
    Known(
        "opt", "opt", {"do_layer_norm_before": False}, "opt 350m, norms in the stream", ("writes", "reads", "logits")
    ),
    *_rows("xglm", "xglm", "biogpt"),
    *_rows("mixtral", "mixtral", "qwen3_moe", "mellum", "phimoe"),
    *_rows("olmoe", "olmoe", "minimax_m2"),
    *_rows("flex_olmo", "flex_olmo"),
    *_rows("cohere2_moe", "cohere2_moe"),
    Known("granitemoe", "granitemoe", _GRANITE),
    Known("granitemoeshared", "granitemoeshared", _GRANITE | _SHARED, unproved=("writes",)),
    Known(
        "granitemoehybrid",
        "granitemoeshared",
        _GRANITE | _SHARED | {"layer_types": ["mamba", "attention"] * 16},
        unproved=("writes",),
        apart=_MIXER,
    ),
    *_rows("hunyuan_v1_moe", "hunyuan_v1_moe", head_dim=128),
    *_rows("qwen2_moe", "qwen2_moe"),
    Known("qwen3_moe", "mixtral", {"mlp_only_layers": [1, 3]}, "qwen3_moe, some layers dense", apart=_DENSE),
    *_rows("glm4_moe", "solar_open"),
    *(Known(name, "glm4_moe", apart=_DENSE) for name in ("glm4_moe", "ernie4_5_moe", "exaone_moe")),
    Known("dots1", "glm4_moe", _DOTS1 | {"first_k_dense_replace": 1}, apart=_DENSE),
    *_rows("aria_text", "aria_text"),
    Known("llama4_text", "llama4_text", _LLAMA4, "llama4_text, the shared expert's neurons", unproved=("writes",)),
    Known(
        "llama4_text",
        "llama4_interleaved",
        _LLAMA4 | {"interleave_moe_layer_step": 2},
        "llama4_text, some layers dense",
        apart="neurons of experts",
    ),
    Known("deepseek_v2", "deepseek_v2", _DEEPSEEK, unproved=("reads",)),
    Known("deepseek_v3", "deepseek_v2", unproved=("reads",), apart=_DENSE),
    Known("glm4_moe_lite", "deepseek_v2", unproved=("reads",), apart=_DENSE),
    Known(
        "deepseek_v2",
        "latent_keys",
        _DEEPSEEK | {"q_lora_rank": None},
        "deepseek_v2, queries without a latent vector",
        unproved=("reads",),
    ),
    Known("youtu", "youtu", unproved=("reads",)),
    Known("minicpm3", "minicpm3", unproved=("writes", "reads", "logits")),
    Known("qwen3_next", "qwen3_next", apart=_MIXER),
    Known("qwen3_5", "qwen3_5_text", apart=_MIXER),
    Known("qwen3_5_moe", "qwen3_next", apart=_MIXER),
    Known("lfm2", "lfm2", {"layer_types": ["conv", "full_attention"] * 16}, apart=_MIXER),
    Known("jamba", "jamba", apart=f"{_MIXER}, neurons of experts"),
    Known("bamba", "jamba", {"attn_layer_indices": [9, 18]}, apart=_MIXER),
    Known("falcon_h1", "falcon_h1", unproved=("writes", "reads")),
    Known(
        "nemotron_h", "nemotron_h", unproved=("writes", "reads"), apart=f"{_MIXER}, neurons of layers without an MLP"
    ),
    *_rows("gpt_oss", "gpt_oss"),
    Known("gemma4_text", "gemma4_moe", _GEMMA4_MOE, "gemma4_text, experts", ("writes",), _WIDE),
    Known("paligemma", "llama", how="wrapper", cached=False),
    Known("gemma3", "gemma2", how="wrapper", cached=False),
    Known("gemma4", "gemma4_text", unproved=("writes",), apart=_WIDE, how="wrapper", cached=False),
    Known("llava", "llama", how="wrapper", cached=False),
    Known("mistral3", "llama", how="wrapper", cached=False),
    Known("smolvlm", "llama", how="wrapper", cached=False),
    Known("qwen2_vl", "llama", _QWEN_VL, how="wrapper", cached=False),
    Known("qwen2_5_vl", "llama", _QWEN_VL, how="wrapper", cached=False),
    Known("qwen3_vl", "llama", how="wrapper", cached=False),
    Known("fuyu", "persimmon", how="wrapper", cached=False),
    Known("emu3", "llama", how="alike"),
    Known("gemma4_unified", "gemma2", unproved=("writes",), apart=_WIDE, how="alike", cached=False),
    Known("phi4_multimodal", "phi3", how="alike"),
    *(
        Known(name, "linear", settings, label, cached=False, how="linear")
        for name, settings, label in (
            ("mamba", {}, ""),
            ("mamba2", {}, ""),
            ("falcon_mamba", {}, ""),
            ("rwkv", {}, ""),
            ("codegen", {}, ""),
            ("diffllama", {}, "diffllama, wired otherwise than llama"),
            ("gemma4_text", {"num_kv_shared_layers": 10}, "gemma4_text, keys and values shared by layers"),
            ("falcon", {"multi_query": True, "parallel_attn": False}, "falcon, one key and a sequential block"),
        )
    ),
)
"""Those of ``families.py``, whose every law has a test of its own, are among them."""

assert {*families.NAMES, *families.MOE} <= {known.model_type for known in TABLE}

_HOW = {
    "row": "Families with a row",
    "wrapper": "Text models inside a model for pictures too (text only)",
    "alike": "Families without a row, recognised by their parts and proved on first use",
    "linear": "Of these, layers and directions alone are known, proved on first use",
}


def text() -> str:
    """The table as the page says it."""
    types = {known.model_type for known in TABLE if known.how != "linear"}
    lines = [
        "# Which models are known",
        "",
        "Written by `python tests/tools/proved.py`; every line is a test in `test_families.py`, which runs what",
        "`print(Anatomy.prove(model))` runs on your own model: a tiny random copy of its config, on the CPU, in seconds.",
        f"{len(types)} model types with heads and neurons. Proved of each: back-propagating from one touches exactly its rows; exact",
        "ablation is one whole pass with zeroed weights; logits at labels only and the prefix cache change neither loss nor",
        "gradients; a slice trains as masked full fine-tuning does; it merges and unmerges. Some scorers need more, and",
        "refuse by name the models of which it does not hold:",
        "",
        *(f"- *{name}*: {says}." for name, says in PROVED_APART.items()),
        "",
        "| model type | layout | writes | reads | logits | prefix cache | refused by layer |",
        "| --- | --- | :---: | :---: | :---: | :---: | --- |",
    ]
    for how, title in _HOW.items():
        lines.append(f"| **{title}** | | | | | | |")
        for known in TABLE:
            if known.how == how:
                unproved = PROVED_APART if known.how == "linear" else known.unproved
                marks = ["-" if name in unproved else "x" for name in PROVED_APART]
                cells = [known.name, known.layout, *marks, "x" if known.cached else "-", known.apart]
                lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "`-` under prefix cache: what stands around the text model hands it embeddings, so the whole pass runs as ever.",
        "A family that is not here is proved when it is first used (some seconds, once per process): as what it is built",
        "like, if its layers have the names and shapes of a family with a row; or else its linear layers, those that see",
        "every token. Of such a family heads and neurons are refused by name; layers, and directions at the inputs of linear",
        "layers, train and are proved: the gradients that localizing adds up are autograd's, directions train as projected",
        "full fine-tuning does, the frozen rest is bit-identical, and it merges. One that fails is refused, and told why.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
