"""The merged model as one GGUF file, for llama.cpp and what is built on it.

Written is what transformers reads back, so that a test compares the two: some ``model_type``s (``WRITTEN``), with a
vocabulary of bytes or of SentencePiece. All else is refused, and needs llama.cpp's own converter on the checkpoint that
``merged`` writes.
Names and values of the metadata: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import nn

from ..anatomy import base_model
from ..errors import GuidedError
from ..system.files import replacing
from .adapted import merged_copy
from .gguf_vocabulary import write_vocabulary

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFWriter
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Written:
    """How models of one ``model_type`` are written.

    Args:
        name: of the architecture in llama.cpp.
        paired: rotary pairs lie beside each other there, not half a head apart.
        transposed: parts of the names, in the file, of matrices that are stored the other way round here.
        taken: settings that a file cannot say, and what they are taken for when it is read.
        biases: whether there is room for biases.
    """

    name: str
    paired: bool = False
    transposed: tuple[str, ...] = ()
    taken: tuple[tuple[str, object], ...] = ()
    biases: bool = True


_LLAMA = Written("llama", paired=True, biases=False)
WRITTEN: dict[str, Written] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Written("qwen2"),
    "qwen3": Written("qwen3", taken=(("head_dim", 128),)),
    "qwen3_moe": Written(
        "qwen3moe",
        taken=(
            ("moe_intermediate_size", 768),
            ("norm_topk_prob", True),
            ("mlp_only_layers", []),
            ("decoder_sparse_step", 1),
        ),
    ),
    "phi3": Written("phi3"),
    "gpt2": Written(
        "gpt2",
        transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
        taken=(
            ("activation_function", "gelu_new"),
            ("scale_attn_weights", True),
            ("scale_attn_by_inverse_layer_idx", False),
            ("n_inner", None),
            ("n_positions", 1024),
            ("tie_word_embeddings", True),
        ),
    ),
}
"""By ``model_type``."""


def to_gguf(model: nn.Module, tokenizer: PreTrainedTokenizerBase, path: str | os.PathLike[str]) -> Path:
    """Write a model, with its active adapters merged in, as a GGUF file of unquantized weights.

    The given model stays as it is. Matrices keep their dtype, vectors are float32.

    Args:
        model: a PeftModel, or a plain causal LM.
        tokenizer: the model's; its vocabulary and chat template are part of the file.
        path: of the file, such as ``model.gguf``.

    Raises:
        GuidedError: for a model or tokenizer that is not among those above; nothing is written.
        ValueError: if an adapter holds NaN or infinity.
    """
    from gguf import GGUFWriter
    from peft import PeftModel

    target = Path(path)
    base = base_model(model)
    _check(base)
    with replacing(target) as temporary:
        writer = GGUFWriter(temporary, WRITTEN[base.config.model_type].name)
        try:
            write_vocabulary(writer, tokenizer, cast(nn.Embedding, base.get_input_embeddings()).num_embeddings)
            plain = merged_copy(model) if isinstance(model, PeftModel) else base
            _write_shape(writer, plain)
            _write_tensors(writer, plain)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return target


def needs_converter(what: str) -> GuidedError:
    """The refusal of what is not written here."""
    return GuidedError(f"gguf: {what} (write the merged checkpoint, and give it to llama.cpp's convert_hf_to_gguf.py)")


def _check(model: PreTrainedModel) -> None:
    config = model.config
    kind = config.model_type
    if kind not in WRITTEN:
        raise needs_converter(f"{kind} is not written here, but {', '.join(WRITTEN)} are")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise needs_converter(f"rotary embeddings of type {rope['rope_type']} are not written here")
    if rope.get("partial_rotary_factor", 1) != 1:
        raise needs_converter("rotary embeddings of a part of each head are not written here")
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and window < config.max_position_embeddings:
        raise needs_converter("attention in a sliding window is not written here")
    for name, value in WRITTEN[kind].taken:
        if (getattr(config, name, value) or None) != (value or None):
            raise needs_converter(f"{name} {getattr(config, name)} of {kind} is not written here")
    if not WRITTEN[kind].biases and any(name.endswith(".bias") for name, _ in model.named_parameters()):
        raise needs_converter(f"a {kind} with biases is not written here")


def _write_shape(writer: GGUFWriter, model: PreTrainedModel) -> None:
    config = model.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    name = Path(str(model.name_or_path or f"{config.model_type} model")).name
    # transformers takes a file of exactly this name for another architecture, which it then cannot read.
    writer.add_name("Mistral" if name == "mistral" else name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    writer.add_head_count(heads)
    writer.add_vocab_size(config.vocab_size)
    if getattr(config, "rope_parameters", None) is None:
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if hasattr(config, "num_experts"):
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)


def _write_tensors(writer: GGUFWriter, model: PreTrainedModel) -> None:
    import torch
    from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, LlamaFileType, get_tensor_name_map, quants

    kinds = {
        torch.float32: (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
        torch.float16: (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
        torch.bfloat16: (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    }
    config = model.config
    architecture = next(key for key, name in MODEL_ARCH_NAMES.items() if name == writer.arch)
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    writer.add_file_type(kinds[model.dtype][1])
    how = WRITTEN[config.model_type]
    # A tied output head is named once here, and left out of the file.
    for name, parameter in model.named_parameters():
        for part, numbers in _as_named(name, parameter.detach().cpu().float().numpy()):
            known = names.get_name(part, try_suffixes=(".weight", ".bias"))
            if known is None:
                raise needs_converter(f"{name} has no name in a file of {writer.arch}")
            if how.paired and (".attn_q." in known or ".attn_k." in known):
                heads = config.num_attention_heads if ".attn_q." in known else config.num_key_value_heads
                numbers = _paired(numbers, heads)
            if numbers.ndim > 1 and any(f".{t}." in known for t in how.transposed):
                numbers = numbers.T.copy()
            kind = kinds[parameter.dtype][0] if numbers.ndim > 1 else GGMLQuantizationType.F32
            writer.add_tensor(known, quants.quantize(numbers, kind), raw_dtype=kind)


def _as_named(name: str, numbers: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A parameter under the name that the table of names has; of experts, whose matrices are joined here, several."""
    experts, _, which = name.rpartition(".")
    if which == "gate_up_proj":
        half = numbers.shape[1] // 2
        yield f"{experts}.gate_proj.weight", numbers[:, :half].copy()
        yield f"{experts}.up_proj.weight", numbers[:, half:].copy()
    else:
        yield (f"{name}.weight" if numbers.ndim == 3 else name), numbers


def _paired(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows ``[heads * width, in]`` in llama.cpp's order: of each head row 0, row ``width / 2``, row 1, and so on."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)
