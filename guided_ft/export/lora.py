"""An adapter as a plain LoRA of one rank, for programs that know nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.functional import pad

from ..errors import GuidedError, pick
from ..plan.modes import ADAPTER
from ..slice.storage import is_transposed
from ..system.files import Json, replacing, write_json
from .adapted import adapted
from .card import write_lora

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from ..plan.plan import Plan
    from ..slice import SliceConfig


def to_lora(
    model: nn.Module,
    folder: str | os.PathLike[str],
    adapter_name: str = ADAPTER,
    tokenizer: PreTrainedTokenizerBase | None = None,
    plan: Plan | None = None,
) -> Path:
    """Write a slice, or a LoRA of several ranks, as a LoRA of one rank and scale 1 that computes the same.

    ``k`` rows or columns are a LoRA of rank ``k``: one matrix places them, the other holds them. Smaller ranks are
    filled up with zeros, so that readers which look at no ``rank_pattern`` are right too: vLLM keeps room for ``r``,
    and llama.cpp scales each module by ``lora_alpha`` over the rank that it finds.

    Example::

        to_lora(model, "lora")
        PeftModel.from_pretrained(base, "lora")  # needs no guided_ft

    Args:
        tokenizer: saved along, with its chat template; None: none is.
        plan: what was trained, for the card.

    Returns:
        The folder, with ``adapter_config.json``, ``adapter_model.safetensors`` and a card.

    Raises:
        GuidedError: if the model has no adapter of this name, or it is none that a LoRA can hold: neurons of experts,
            which are not linear in their weights; biases; DoRA and others of PEFT's.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    peft_model = adapted(model)
    config = pick(peft_model.peft_config, adapter_name, "adapter_name")
    layers = _layers(peft_model, adapter_name)
    factors = {module: _factors(layer, adapter_name) for module, layer in layers.items()}
    rank = max(len(a) for _, a in factors.values())
    tensors = {
        name: tensor
        for name, tensor in get_peft_model_state_dict(
            model, adapter_name=adapter_name, save_embedding_layers=False
        ).items()
        # What else was trained, such as modules_to_save.
        if not any(name.startswith(f"base_model.model.{module}.") for module in factors)
    }
    for module, (b, a) in factors.items():
        tensors |= {
            f"base_model.model.{module}.lora_A.weight": pad(a, (0, 0, 0, rank - len(a))),
            f"base_model.model.{module}.lora_B.weight": pad(b, (0, rank - len(a))),
        }
    target = Path(folder)
    with replacing(target / "adapter_model.safetensors") as temporary:
        ours = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(ours, temporary, metadata={"format": "pt"})
    if tokenizer is not None:
        tokenizer.save_pretrained(target)
    write_lora(target, config, plan)
    # Last: a folder with a configuration is complete.
    write_json(target / "adapter_config.json", _plain(_lora_config(config, layers, rank).to_dict()))
    return target


def _layers(model: PeftModel, adapter: str) -> dict[str, Any]:
    """The layers that hold a slice or a LoRA, by module."""
    from peft import PeftType
    from peft.tuners.lora import LoraLayer

    from ..slice import SliceLayer

    layers = {
        module: layer
        for module, layer in model.get_base_model().named_modules()
        if isinstance(layer, SliceLayer | LoraLayer)
        and any(adapter in getattr(layer, held) for held in layer.adapter_layer_names)
    }
    if not layers:
        kind = PeftType(model.peft_config[adapter].peft_type).value
        raise GuidedError(f"adapter_name: {adapter!r} is neither a slice nor a LoRA but {kind} (export.merged can)")
    for module, layer in layers.items():
        beyond = _beyond(layer, model.peft_config[adapter], adapter)
        if beyond:
            raise GuidedError(f"to_lora: {module}: a LoRA cannot hold {beyond} (export.merged can)")
    return layers


def _beyond(layer: Any, config: Any, adapter: str) -> str | None:
    """What an adapter does to a layer beside two products added to a linear one; None for nothing."""
    from ..slice import SliceLayer

    if isinstance(layer, SliceLayer):
        return None if layer.supports_lora_conversion(adapter) else "neurons of experts"
    if adapter not in layer.lora_A or not isinstance(layer.lora_A[adapter], nn.Linear):
        return f"a {type(layer).__name__}"
    told = {
        "biases": config.bias != "none" or layer.lora_bias.get(adapter),
        "repeated layers": config.layer_replication,
        "what a variant of LoRA computes": adapter in layer.lora_variant,
    }
    return next((what for what, there in told.items() if there), None)


def _factors(layer: Any, adapter: str) -> tuple[Tensor, Tensor]:
    """``B [out, r]`` and ``A [r, in]`` with ``B A`` what an adapter adds to a weight."""
    from ..slice import SliceLayer

    if isinstance(layer, SliceLayer):
        return layer.factors(adapter)
    return layer.scaling[adapter] * layer.lora_B[adapter].weight, layer.lora_A[adapter].weight


def _lora_config(config: SliceConfig | LoraConfig, layers: dict[str, Any], rank: int) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        task_type=config.task_type,
        inference_mode=True,
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(layers),
        fan_in_fan_out=any(is_transposed(layer.get_base_layer()) for layer in layers.values()),
        modules_to_save=config.modules_to_save,
        trainable_token_indices=config.trainable_token_indices,
    )


def _plain(data: dict[str, object]) -> Json:
    return {key: sorted(value) if isinstance(value, set) else value for key, value in data.items()}
