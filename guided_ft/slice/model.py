"""The PEFT tuner: puts a SliceLayer where the configuration says, and nowhere else."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any, cast

import torch
from peft import NoMatchingPeftModuleError
from peft.tuners.tuners_utils import BaseTuner, onload_layer
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from ..errors import GuidedError
from .config import SliceConfig, unpack_index
from .experts import SliceExperts
from .layer import SliceLayer, base_of, linear_features
from .mixed import copies_in, mixed_batch
from .storage import forbid_packing


class SliceModel(BaseTuner):
    """A model with slice adapters. Made by ``peft.get_peft_model(model, SliceConfig(...))``."""

    prefix = "slice_"
    tuner_layer_cls = SliceLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING  # type: ignore[assignment]

    @staticmethod
    def _check_target_module_exists(peft_config: SliceConfig, key: str) -> Any:  # type: ignore[override]
        if peft_config.slices is not None:
            # Exact names: PEFT shortens long target lists to suffixes, which could match more than was chosen.
            return key in peft_config.slices
        return BaseTuner._check_target_module_exists(peft_config, key)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except NoMatchingPeftModuleError as error:
            raise GuidedError(f"target_modules: {error}") from None
        # Not in _post_injection_hook, which PEFT calls for the first adapter only.
        self._make_explicit(model, cast(SliceConfig, self.peft_config[adapter_name]), adapter_name)

    def _prepare_model(self, peft_config: SliceConfig, model: nn.Module) -> None:  # type: ignore[override]
        # All that can be refused is refused before the first layer is replaced, so that the model stays usable.
        forbid_packing(model)
        slices = peft_config.slices or {}
        modules = dict(model.named_modules())
        _require(slices, modules)
        for name, spec in slices.items():
            cls, where = _layer_and_place(spec)
            try:
                cls.check(modules[name], **where)
            except GuidedError as error:
                raise GuidedError(f"{name}: {error}") from None

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: SliceConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: object,
    ) -> None:
        if peft_config.slices is not None:
            cls, where = _layer_and_place(peft_config.slices[current_key])
        else:
            cls, where = self._random_draw(peft_config, target, current_key)
        where |= {"rank": peft_config.rank}
        where |= {"init_weights": peft_config.init_weights, "inference_mode": peft_config.inference_mode}
        if isinstance(target, SliceLayer):
            target.update_layer(adapter_name, **where)
            return
        layer = cls(target, adapter_name, **where)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    @staticmethod
    def _random_draw(config: SliceConfig, target: nn.Module, key: str) -> tuple[type[SliceLayer], dict[str, Any]]:
        base = base_of(target)
        cls = SliceExperts if linear_features(base) is None and hasattr(base, "num_experts") else SliceLayer
        try:
            where = cls.draw(target, config.fraction, random.Random(f"{config.seed}:{key}"))
            cls.check(target, **where)
        except GuidedError as error:
            raise GuidedError(f"{key}: {error}") from None
        return cls, where

    @staticmethod
    def _make_explicit(model: nn.Module, config: SliceConfig, adapter_name: str) -> None:
        layers = {
            name: layer
            for name, layer in model.named_modules()
            if isinstance(layer, SliceLayer) and adapter_name in layer.slice_delta
        }
        if config.slices is None:
            # The draw becomes explicit, so that a saved control says exactly what it trained.
            config.slices = {name: layer.spec(adapter_name) for name, layer in layers.items()}
            config.chosen = f"{config.fraction:.3g} of the rows, drawn at random with seed {config.seed}"
        _require(config.slices, layers)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Refuse a damaged file by name; PEFT would load what is there and say nothing."""
        for name, layer in model.named_modules():
            if not isinstance(layer, SliceLayer) or adapter_name not in layer.slice_delta:
                continue
            delta = layer.slice_delta[adapter_name]
            for kind, expected in delta.state_dict().items():
                key = f"{name}.slice_delta.{kind}"
                found = state_dict.get(key)
                if found is None or found.shape != expected.shape:
                    has = "is missing" if found is None else f"has shape {tuple(found.shape)}"
                    raise GuidedError(
                        f"adapter file: {key} {has}, not {tuple(expected.shape)} (is its config its own?)"
                    )
                if not (layer.fits(adapter_name, found) if kind == "index" else bool(torch.isfinite(found).all())):
                    raise GuidedError(f"adapter file: {key} holds impossible values (the file is damaged)")
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(
        self, *args: object, adapter_names: object = None, **kwargs: object
    ) -> Iterator[None]:
        """PEFT enters this around every forward and generate; ``adapter_names`` asks for a mixed batch."""
        if adapter_names is None:
            yield
            return
        kind = self.get_model_config(self.model).get("model_type")
        with mixed_batch(self.model, set(self.peft_config), adapter_names, kind, copies_in(kwargs)):
            yield

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(new_module, SliceLayer):
            super()._replace_module(parent, child_name, new_module, child)
        else:
            # What was there goes back. PEFT would give it the `weight` of the layer around it, which experts and
            # trained tokens do not have.
            setattr(parent, child_name, new_module)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        if safe_merge:
            self._rehearse_merge(adapter_names)
        super().merge_adapter(adapter_names, safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        if merge and safe_merge:
            self._rehearse_merge(adapter_names)
        return super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)

    def _rehearse_merge(self, adapter_names: list[str] | None) -> None:
        """Raise what a safe merge would raise in some layer, before any layer is changed."""
        for layer in self.model.modules():
            if isinstance(layer, SliceLayer):
                count = len(layer.merged_adapters)
                with onload_layer(layer):
                    try:
                        layer.merge(safe_merge=True, adapter_names=adapter_names)
                    finally:
                        layer.unmerge_to(count)


def _layer_and_place(spec: dict[str, Any]) -> tuple[type[SliceLayer], dict[str, Any]]:
    """The layer that trains what one entry of ``slices`` says, and the arguments that tell it."""
    if "neurons" in spec:
        return SliceExperts, {"neurons": {int(e): unpack_index(index) for e, index in spec["neurons"].items()}}
    return SliceLayer, {"axis": spec["axis"], "index": unpack_index(spec["index"])}


_AROUND = ("_orig_mod", "module", "base_model.model")
"""Where compiled, spread and adapted models keep the model."""


def _require(slices: dict[str, Any], modules: dict[str, Any]) -> None:
    missing = sorted(set(slices) - set(modules))
    if missing:
        wrapped = (f"{around}.{missing[0]}" for around in _AROUND)
        inside = next((name for name in wrapped if name in modules), None)
        mend = f"here it is {inside!r}: take the model itself, before it is compiled or wrapped" if inside else ""
        raise GuidedError(
            f"slices: this model has no module {missing[0]!r} ({mend or f'{len(missing)} missing in all'})"
        )
