"""Load models and tokenizers: the embedded default, a folder, or an id of the Hub. Imports no torch."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from .errors import GuidedError, pick
from .system.places import EMBEDDED, load_from
from .system.progress import drop_loading_report, drop_vocabulary_notice
from .task.tokenizer import load_tokenizer as load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


_DTYPES = ("float32", "bfloat16", "float16")


def load_config(name: str) -> PreTrainedConfig:
    """Load a model's configuration: from a folder, a ``config.json``, or an id of the Hub; no weights are needed."""
    from transformers import AutoConfig

    # Whatever goes wrong, the file is all that it can be due to.
    return load_from(AutoConfig.from_pretrained, name, (Exception,), trust_remote_code=False)


def load_model(
    name: str, *, dtype: str = "float32", quantization: str = "none", trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a causal LM in eval mode, on the GPU if there is one.

    Args:
        name: of an embedded model (``smollm2-135m-instruct``), a folder as ``save_pretrained`` writes it, or an id of
            the Hub.
        dtype: of the weights, or of those that are not quantized: ``float32``, ``bfloat16`` or ``float16``.
        quantization: ``none``, or ``nf4`` or ``int8`` by bitsandbytes, which the model is quantized to while it loads.

    Raises:
        GuidedError: for one that cannot be read, lacks a weight, or holds one of another shape, NaN or infinity.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from .slice.storage import forbid_packing

    drop_loading_report()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Users of transformers write torch.bfloat16.
    precision = pick({name: getattr(torch, name) for name in _DTYPES}, str(dtype).removeprefix("torch."), "dtype")
    options = _quantized(quantization, precision, device)
    model, told = load_from(
        AutoModelForCausalLM.from_pretrained,
        name,
        dtype=precision,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        # Refused below by its name; by itself that would be a table in a log and an error that points to it.
        ignore_mismatched_sizes=True,
        **options,
    )
    _check_whole(name, model, told)
    if options and model.hf_quantizer.pre_quantized:
        raise GuidedError(f"quantization: {name!r} is saved quantized (write none: it loads as it was saved)")
    forbid_packing(model)
    if name in EMBEDDED:
        # What PEFT writes into an adapter. The configuration keeps the folder: DPO reloads its reference from there.
        model.name_or_path = name
        drop_vocabulary_notice(name)
    return model.to(device).eval()


def _check_whole(name: str, model: PreTrainedModel, told: dict[str, Any]) -> None:
    """Refuse weights that would be drawn at random, or would turn all that is computed into NaN."""
    import torch

    missing = sorted(told["missing_keys"])
    if missing:
        raise GuidedError(f"model: {name!r} lacks {missing[0]} ({len(missing)} weights in all: get a whole copy)")
    for key, found, expected in sorted(told["mismatched_keys"]):
        shapes = f"shape {tuple(found)}, not {tuple(expected)}"
        raise GuidedError(f"model: {name!r}: {key} has {shapes} (is config.json its own? get a whole copy)")
    for key, weight in model.named_parameters():
        # A sum costs no memory, and is finite wherever all are; only where it overflows one looks closer.
        if weight.is_floating_point() and not (torch.isfinite(weight.sum()) or torch.isfinite(weight).all()):
            raise GuidedError(f"model: {name!r}: {key} holds NaN or infinity (get an undamaged copy)")


QUANTIZATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "int8": {"load_in_8bit": True},
}


def _quantized(name: str, dtype: object, device: str) -> dict[str, Any]:
    """What ``from_pretrained`` is told to quantize a model."""
    settings = pick(QUANTIZATIONS, name, "quantization")
    if not settings:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise GuidedError(f"quantization: {name} needs bitsandbytes (run: pip install 'guided-ft[quantized]')")
    from transformers import BitsAndBytesConfig

    computed = {"bnb_4bit_compute_dtype": dtype} if "load_in_4bit" in settings else {}
    return {"quantization_config": BitsAndBytesConfig(**settings, **computed), "device_map": {"": device}}
