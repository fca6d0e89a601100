"""Read the sizes and names that an Anatomy is made of from a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from ..errors import GuidedError
from .families import named_by_layout
from .family import Family

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def read_model(base: nn.Module, family: Family) -> dict[str, Any]:
    """Return the fields of ``Anatomy`` for a causal LM whose layers have this layout."""
    config = base.config.get_text_config()
    decoder = base.get_decoder()
    prefix = next((name for name, module in base.named_modules() if module is decoder), "")
    layers = getattr(decoder, family.layers)
    num_heads = config.num_attention_heads
    for i, layer in enumerate(layers):
        _check_experts(layer, i, config.model_type, family)
    shapes = {name: _stored_shape(layers[0], name, family) for name in family.projections}
    parameters = own_parameters(layers[0])
    for i, layer in enumerate(layers):
        if own_parameters(layer) != parameters or any(_stored_shape(layer, n, family) != s for n, s in shapes.items()):
            raise GuidedError(f"layer {i} differs from layer 0 in its parameters (layers must be alike)")
    num_experts = shapes[family.down][0] if family.experts else 0
    head_dim = shapes[family.out][1 - int(family.transposed)] // num_heads
    return dict(
        model_type=config.model_type,
        layout=family.layout if named_by_layout(config.model_type) else "",
        prefix=".".join(filter(None, (prefix, family.layers))),
        num_layers=len(layers),
        num_heads=num_heads,
        num_groups=_groups(family, shapes, num_heads, head_dim),
        num_neurons=shapes[family.down][-2:][1 - family.rows_axis(family.down)] * max(num_experts, 1),
        num_experts=num_experts,
        head_dim=head_dim,
        num_parameters=sum(own_parameters(base).values()),
        shapes=shapes,
        parameters=parameters,
    )


def _groups(family: Family, shapes: dict[str, tuple[int, ...]], num_heads: int, head_dim: int) -> int:
    """Key/value groups: counted, not read from the config, where families without may carry a stray setting."""
    if family.latent:
        return num_heads
    inside = [rows for rows in family.attention if rows.module == family.value.module]
    units = shapes[family.value.module][int(family.transposed)] // head_dim
    # Whatever else the values' module holds: queries, and as many keys as values.
    return (units - num_heads * (family.query in inside)) // (1 + (family.key in inside))


def base_model(model: nn.Module) -> PreTrainedModel:
    """Return the Hugging Face model inside a PeftModel, or the model itself."""
    return cast("PreTrainedModel", getattr(model, "get_base_model", lambda: model)())


def stored_weight(model: nn.Module, name: str) -> nn.Parameter:
    """Return the weight of a projection by its name in a model or a layer, without the adapters around it.

    A projection is a module, or in a mixture of experts a parameter ``[experts, rows, columns]`` of one.
    """
    parent, _, last = name.rpartition(".")
    found = getattr(bare(model.get_submodule(parent)), last)
    return getattr(bare(found), "weight", found)


def bare(module: Any) -> Any:
    """Return the module inside adapters, or the module itself."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module


def original(module: Any) -> Any:
    """Return the module that stood here before adapters and trained copies of it, or the module itself."""
    for name in ("base_layer", "original_module"):
        if hasattr(module, name):
            return original(getattr(module, name))
    return module


def _check_experts(layer: nn.Module, number: int, model_type: str, family: Family) -> None:
    """Refuse by name what a row with experts cannot describe, such as a dense layer between sparse ones."""
    names = [name for name in family.projections if family.of_experts(name)]
    try:
        weights = {name: stored_weight(layer, name) for name in names}
    except AttributeError:
        raise GuidedError(
            f"{model_type}: layer {number} has no {names[0]} (layers with and without experts cannot be mixed, see "
            "mlp_only_layers and decoder_sparse_step in the model's config; nor can packed experts be read)"
        ) from None
    for name, weight in weights.items():
        if getattr(weight, "ndim", 0) != 3 or not getattr(weight, "is_floating_point", bool)():
            raise GuidedError(f"{model_type}: {name} is quantized or packed (load the model unquantized)")


def _stored_shape(layer: nn.Module, name: str, family: Family) -> tuple[int, ...]:
    if family.of_experts(name):
        return tuple(int(n) for n in stored_weight(layer, name).shape)
    module: Any = layer.get_submodule(name)
    if hasattr(module, "in_features"):
        # Not weight.shape: quantized weights are stored packed.
        shape = (int(module.out_features), int(module.in_features))
        return (shape[1], shape[0]) if family.transposed else shape
    rows, columns = module.weight.shape
    return int(rows), int(columns)


def own_parameters(module: nn.Module) -> dict[str, int]:
    """Sizes of the parameters of a module, without those of adapters and under the names they had before them."""
    found: dict[nn.Parameter, tuple[str, int]] = {}

    def read(module: nn.Module, prefix: str) -> None:
        module = original(module)
        for name, parameter in module.named_parameters(recurse=False):
            found.setdefault(parameter, (prefix + name, _numel(parameter)))  # tied ones count once
        for name, child in module.named_children():
            read(child, f"{prefix}{name}.")

    read(module, "")
    return dict(found.values())


def _numel(parameter: nn.Parameter) -> int:
    """Number of weights, of which 4-bit storage packs several into one element."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)
