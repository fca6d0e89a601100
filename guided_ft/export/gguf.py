"""The merged model as one GGUF file, for llama.cpp and what is built on it.

Written are Llama, Mistral, Qwen2 and Qwen3 with a byte-level vocabulary: what transformers reads back, so that a test
compares the two. All else is refused and needs llama.cpp's own converter, on the checkpoint that ``merged`` writes.
Names and values of the metadata: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import GuidedError
from ..system.files import replacing
from .adapted import merged_copy
from .gguf_vocabulary import write_vocabulary

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""llama.cpp's name of each ``model_type``."""

_ROTATED_IN_PAIRS = {"llama"}
"""Architectures whose rotary pairs lie beside each other in llama.cpp, not half a head apart."""

_FIXED_HEAD_DIM = {"qwen3": 128}
"""Architectures whose files are read back with this width of a head, whatever they say."""


def to_gguf(model: nn.Module, tokenizer: Any, path: str | os.PathLike[str]) -> Path:
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
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    _check(base)
    with replacing(target) as temporary:
        writer = GGUFWriter(temporary, ARCHITECTURES[base.config.model_type])
        try:
            write_vocabulary(writer, tokenizer, base.get_input_embeddings().num_embeddings)
            plain = merged_copy(model) if isinstance(model, PeftModel) else model
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


def _check(model: Any) -> None:
    config = model.config
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise needs_converter(f"{kind} is not written here, but {', '.join(ARCHITECTURES)} are")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise needs_converter(f"rotary embeddings of type {rope['rope_type']} are not written here")
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and window < config.max_position_embeddings:
        raise needs_converter("attention in a sliding window is not written here")
    if kind in _FIXED_HEAD_DIM and config.head_dim != _FIXED_HEAD_DIM[kind]:
        raise needs_converter(f"heads of {kind} that are {config.head_dim} wide are not written here")
    if ARCHITECTURES[kind] == "llama" and any(name.endswith(".bias") for name, _ in model.named_parameters()):
        raise needs_converter(f"a {kind} with biases is not written here")


def _write_shape(writer: GGUFWriter, model: Any) -> None:
    config = model.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    name = Path(str(model.name_or_path or f"{config.model_type} model")).name
    # transformers takes a file of exactly this name for another architecture, which it then cannot read.
    writer.add_name("Mistral" if name == "mistral" else name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tensors(writer: GGUFWriter, model: Any) -> None:
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
    # A tied output head is named once here, and left out of the file.
    for name, parameter in model.named_parameters():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise needs_converter(f"{name} has no name in a file of {writer.arch}")
        numbers = parameter.detach().cpu().float().numpy()
        if writer.arch in _ROTATED_IN_PAIRS and (".attn_q." in known or ".attn_k." in known):
            numbers = _paired(
                numbers, config.num_attention_heads if ".attn_q." in known else config.num_key_value_heads
            )
        kind = kinds[parameter.dtype][0] if numbers.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(known, quants.quantize(numbers, kind), raw_dtype=kind)


def _paired(weight: Any, heads: int) -> Any:
    """Rows ``[heads * width, in]`` in llama.cpp's order: of each head row 0, row ``width / 2``, row 1, and so on."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)
