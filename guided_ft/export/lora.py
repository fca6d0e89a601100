"""A slice adapter as a stock LoRA, for programs that know LoRA only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ..errors import GuidedError, pick
from ..plan.modes import ADAPTER
from ..system.files import Json, replacing, write_json
from .adapted import adapted
from .card import write_lora

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedTokenizerBase

    from ..slice import SliceConfig, SliceLayer


def to_lora(
    model: nn.Module,
    folder: str | os.PathLike[str],
    adapter_name: str = ADAPTER,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Path:
    """Write a slice adapter as a LoRA adapter that computes the same, for programs that know LoRA only.

    ``k`` rows or columns are a LoRA of rank ``k``: one matrix places them, the other holds them. Nothing is
    approximated, and the scale is 1 everywhere, so that a reader which ignores ``alpha_pattern`` is right too.

    Example::

        to_lora(model, "lora")
        PeftModel.from_pretrained(base, "lora")  # needs no guided_ft

    Args:
        tokenizer: saved along, with its chat template; None: none is.

    Returns:
        The folder, with ``adapter_config.json``, ``adapter_model.safetensors`` and a card.

    Raises:
        GuidedError: if the model has no slice adapter of this name, or it trains neurons of experts, which are not
            linear in their weights.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config, layers = _slice_adapter(model, adapter_name)
    for module, layer in layers.items():
        if not layer.supports_lora_conversion(adapter_name):
            raise GuidedError(f"to_lora: {module}: a LoRA cannot hold neurons of experts (export.merged can)")
    tensors = {
        name: tensor
        for name, tensor in get_peft_model_state_dict(
            model, adapter_name=adapter_name, save_embedding_layers=False
        ).items()
        if ".slice_delta." not in name  # what else was trained, such as modules_to_save
    }
    ranks = {}
    for module, layer in layers.items():
        b, a = layer.factors(adapter_name)
        ranks[module] = len(a)
        tensors |= {
            f"base_model.model.{module}.lora_A.weight": a,
            f"base_model.model.{module}.lora_B.weight": b,
        }
    target = Path(folder)
    with replacing(target / "adapter_model.safetensors") as temporary:
        ours = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(ours, temporary, metadata={"format": "pt"})
    if tokenizer is not None:
        tokenizer.save_pretrained(target)
    write_lora(target, config)
    transposed = any(layer.transposed for layer in layers.values())
    # Last: a folder with a configuration is complete.
    write_json(target / "adapter_config.json", _plain(_lora_config(config, ranks, transposed).to_dict()))
    return target


def _slice_adapter(model: nn.Module, adapter_name: str) -> tuple[SliceConfig, dict[str, SliceLayer]]:
    from ..slice import SliceConfig, SliceLayer

    peft_model = adapted(model)
    config = pick(peft_model.peft_config, adapter_name, "adapter_name")
    if not isinstance(config, SliceConfig):
        raise GuidedError(f"adapter_name: {adapter_name!r} is not a slice adapter but {config.peft_type.value}")
    return config, {
        name: layer
        for name, layer in peft_model.get_base_model().named_modules()
        if isinstance(layer, SliceLayer) and adapter_name in layer.slice_delta
    }


def _lora_config(config: SliceConfig, ranks: dict[str, int], transposed: bool) -> LoraConfig:
    from peft import LoraConfig

    # The largest rank is the general one: servers reserve room for `r` and look at no pattern.
    largest = max(ranks.values())
    smaller = {f"^{module}": rank for module, rank in ranks.items() if rank < largest}
    return LoraConfig(
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        task_type=config.task_type,
        inference_mode=True,
        r=largest,
        lora_alpha=largest,
        rank_pattern=smaller,
        alpha_pattern=dict(smaller),
        target_modules=sorted(ranks),
        fan_in_fan_out=transposed,
        modules_to_save=config.modules_to_save,
        trainable_token_indices=config.trainable_token_indices,
    )


def _plain(data: dict[str, object]) -> Json:
    return {key: sorted(value) if isinstance(value, set) else value for key, value in data.items()}
