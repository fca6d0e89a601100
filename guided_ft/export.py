"""Leave guided_ft behind: a slice adapter as a stock LoRA, or the merged model as a plain checkpoint."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from .errors import GuidedError, pick
from .models import forget_quantization
from .plan.modes import ADAPTER
from .system.files import replacing, write_json

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    from .slice import SliceConfig, SliceLayer


def to_lora(model: nn.Module, folder: str | os.PathLike[str], adapter_name: str = ADAPTER) -> Path:
    """Write a slice adapter as a LoRA adapter that computes the same, for programs that know LoRA only.

    ``k`` rows or columns are a LoRA of rank ``k``: one matrix places them, the other holds them. Nothing is
    approximated, and the scale is 1 everywhere, so that a reader which ignores ``alpha_pattern`` is right too.

    Example::

        to_lora(model, "lora")
        PeftModel.from_pretrained(base, "lora")  # needs no guided_ft

    Returns:
        The folder, with ``adapter_config.json`` and ``adapter_model.safetensors``.

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
    transposed = any(layer.transposed for layer in layers.values())
    # Last: a folder with a configuration is complete.
    write_json(target / "adapter_config.json", _plain(_lora_config(config, ranks, transposed).to_dict()))
    return target


def merged(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Write the model with its active adapters merged in: a plain checkpoint that needs neither PEFT nor guided_ft.

    The given PeftModel is taken apart by this (there is no second copy of the weights), so load it again to go on.
    The tokenizer is not part of it. A quantized base is dequantized first, so that nothing of the adapter is rounded to
    its codes: the checkpoint computes what was trained, and is as large as an unquantized one.

    Raises:
        GuidedError: if the model has no adapter, one is merged into a quantized base, the base is quantized by
            something else than bitsandbytes, or the folder is in use.
        ValueError: if an adapter holds NaN or infinity; the model is then unchanged.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise GuidedError(f"{target}: already in use (name a new or empty folder)")
    peft_model = _peft(model)
    if getattr(peft_model.get_base_model(), "is_quantized", False):
        peft_model = _on_plain_base(peft_model)
    plain = peft_model.merge_and_unload(safe_merge=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        plain.save_pretrained(Path(temporary, "model"))
        # A folder that exists holds a whole model.
        os.replace(Path(temporary, "model"), target)
    return target


def _on_plain_base(model: PeftModel) -> PeftModel:
    """Move the active adapters, of any kind, from a quantized base to the same base in full precision."""
    import torch
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    from .slice.layer import broken
    from .slice.storage import dequantize, quantized_layers

    if not quantized_layers(model):
        raise GuidedError("export: the base is quantized in an unknown way (known: nf4, fp4, int8 of bitsandbytes)")
    if any(getattr(module, "merged", False) for module in model.modules()):
        raise GuidedError("export: an adapter is merged into quantized weights (call unmerge_adapter() first)")
    active = list(model.active_adapters)
    tensors = {
        name: get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False) for name in active
    }
    for name in active:
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors[name].values()):
            raise broken(name)
    configs = {name: model.peft_config[name] for name in active}
    base = model.unload()
    dequantize(base)
    forget_quantization(base)
    moved = get_peft_model(base, configs[active[0]], adapter_name=active[0])
    for name in active:
        if name != active[0]:
            moved.add_adapter(name, configs[name])
        set_peft_model_state_dict(moved, tensors[name], adapter_name=name)
    moved.base_model.set_adapter(active)  # type: ignore[operator]
    return moved


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload adapter",
) -> str:
    """Upload the adapters to a repository of the Hub, with a model card that says what they are and how to load them.

    ``PeftModel.push_to_hub`` replaces the card that ``save_pretrained`` wrote by the repository's, or by an empty form
    if it has none. Here the repository's own card is kept and brought up to date; from then on both do.

    Returns:
        The address of the commit.
    """
    from huggingface_hub import HfApi, ModelCard
    from huggingface_hub.errors import EntryNotFoundError

    peft_model, api = _peft(model), HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with contextlib.suppress(EntryNotFoundError):
            # PEFT and we write into a card that is there.
            ModelCard.load(repository, token=token).save(Path(folder, "README.md"))
        peft_model.save_pretrained(folder)
        return api.upload_folder(repo_id=repository, folder_path=folder, commit_message=commit_message).commit_url


def _peft(model: nn.Module) -> PeftModel:
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        raise GuidedError(f"export: a {type(model).__name__} has no adapter (pass the PeftModel)")
    return model


def _slice_adapter(model: nn.Module, adapter_name: str) -> tuple[SliceConfig, dict[str, SliceLayer]]:
    from .slice import SliceConfig, SliceLayer

    peft_model = _peft(model)
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


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    return {key: sorted(value) if isinstance(value, set) else value for key, value in data.items()}
