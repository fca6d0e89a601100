"""Read the sizes and names that an Anatomy is made of from a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from ..errors import GuidedError
from .families import named_by_layout
from .family import Family

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


Shapes = dict[str, tuple[int, ...]]


def read_model(base: PreTrainedModel, family: Family) -> dict[str, Any]:
    """Return the fields of ``Anatomy`` for a causal LM whose layers have this layout.

    Raises:
        GuidedError: if no layer has some projection, or one is quantized in a way that cannot be read.
    """
    config = base.config.get_text_config()
    decoder = decoder_of(base)
    if not hasattr(decoder, family.layers):
        raise GuidedError(
            f"{config.model_type}: its {type(decoder).__name__} has no {family.layers!r} (give the text model in it)"
        )
    names = (*family.projections, *family.beside)
    return read_layers(base, family, family.layers, names, lambda shapes: _counts(config, family, shapes))


def read_layers(
    base: PreTrainedModel,
    family: Family,
    where: str,
    names: Sequence[str],
    counts: Callable[[Shapes], dict[str, int]],
) -> dict[str, Any]:
    """The fields of ``Anatomy``.

    Args:
        where: name of the list of layers in the decoder.
        names: of the projections, relative to a layer.
        counts: says of their shapes how many heads and neurons they hold.
    """
    config = base.config.get_text_config()
    decoder = decoder_of(base)
    prefix = next((name for name, module in base.named_modules() if module is decoder), "")
    layers = list(getattr(decoder, where))
    shapes, absent = _shapes(layers, names, family, config.model_type)
    # Those of a layer that has most.
    sizes = [own_parameters(layer) for layer in layers]
    lacking = [sum(i in where for where in absent.values()) for i in range(len(layers))]
    parameters = sizes[lacking.index(min(lacking))]
    return dict(
        model_type=config.model_type,
        layout=family.layout if named_by_layout(config.model_type) else "",
        prefix=".".join(filter(None, (prefix, where))),
        num_layers=len(layers),
        **counts(shapes),
        num_parameters=sum(own_parameters(base).values()),
        shapes=shapes,
        parameters=parameters,
        absent=absent,
        odd_parameters={i: found for i, found in enumerate(sizes) if found != parameters},
    )


def _counts(config: PreTrainedConfig, family: Family, shapes: Shapes) -> dict[str, int]:
    num_heads = config.num_attention_heads
    num_experts = shapes[family.down][0] if family.experts else 0
    head_dim = shapes[family.out][1 - int(family.transposed)] // num_heads
    return dict(
        num_heads=num_heads,
        num_groups=_groups(family, shapes, num_heads, head_dim),
        num_neurons=shapes[family.down][-2:][1 - family.rows_axis(family.down)] * max(num_experts, 1),
        num_experts=num_experts,
        head_dim=head_dim,
    )


def _shapes(layers: list[nn.Module], names: Sequence[str], family: Family, model_type: str) -> tuple[Shapes, Shapes]:
    """The stored shape of each projection, and the layers that lack it; one of a rarer size is as good as lacking."""
    shapes, absent = {}, {}
    for name in names:
        found = [_stored_shape(layer, name, family, model_type) for layer in layers]
        there = Counter(shape for shape in found if shape is not None)
        if not there:
            if name in family.beside:
                continue
            raise GuidedError(f"{model_type}: no layer has {name} (is it packed, or quantized in an unknown way?)")
        shapes[name] = there.most_common(1)[0][0]
        without = tuple(i for i, shape in enumerate(found) if shape != shapes[name])
        if without:
            absent[name] = without
    return shapes, absent


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


def check_own_forward(model: nn.Module) -> None:
    """Raise GuidedError for a model whose forward pass runs another one's layers.

    TRL (1.16) puts a forward on the model that calls the one before, and a copy of the model still calls the
    original's.
    """
    from torch import nn

    for owner in (model, base_model(model)):
        forward = vars(owner).get("forward")
        cells = getattr(getattr(forward, "__func__", forward), "__closure__", None) or ()
        for called in (getattr(cell.cell_contents, "__self__", None) for cell in cells):
            if isinstance(called, nn.Module) and called is not owner:
                raise GuidedError(
                    "model: its forward pass runs another model's layers (it is a copy of a model that a TRL trainer "
                    "has held: load it anew, or copy it before)"
                )


def settings_of(model: nn.Module) -> dict[str, Any]:
    """Return what a model's configuration says of what it computes: the same weights may be run in another way."""
    settings = base_model(model).config.to_dict()
    return {name: value for name, value in settings.items() if name not in ("_name_or_path", "use_cache")}


def decoder_of(model: nn.Module) -> nn.Module:
    """Return the part of a causal LM (or of a PeftModel of one) that runs the layers, without the output head."""
    base: Any = base_model(model)
    found = base.get_decoder()
    # Llama 4 and Mamba do not know their own.
    return getattr(base, "model", base.base_model) if found is base else found


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


def original(module: nn.Module) -> Any:
    """Return the module that stood here before adapters and trained copies of it, or the module itself."""
    for name in ("base_layer", "original_module"):
        if hasattr(module, name):
            return original(getattr(module, name))
    return module


def _stored_shape(layer: nn.Module, name: str, family: Family, model_type: str) -> tuple[int, ...] | None:
    """The shape in which a layer stores a projection, or None if it has none of that name."""
    try:
        if family.of_experts(name):
            weight = stored_weight(layer, name)
            if getattr(weight, "ndim", 0) != 3 or not getattr(weight, "is_floating_point", bool)():
                raise GuidedError(f"{model_type}: {name} is quantized or packed (load the model unquantized)")
            return tuple(int(n) for n in weight.shape)
        module: Any = layer.get_submodule(name)
    except AttributeError:
        return None
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
