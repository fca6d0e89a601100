"""``Layout``: sizes, names and shapes of a model, read once and kept as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import GuidedError, pick
from .families import family_of
from .family import Family, Rows

if TYPE_CHECKING:
    from typing_extensions import Self

_LATER = ("num_experts", "layout", "unproved", "absent", "odd_parameters")
"""Fields that came later."""


@dataclass(frozen=True)
class Layout:
    """The numbers of a model: how many parts of each kind, the stored shapes, and the modules' names."""

    model_type: str
    prefix: str
    num_layers: int
    num_heads: int
    num_groups: int
    num_neurons: int
    head_dim: int
    num_parameters: int
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    """Stored shape of each projection, by its name relative to the layer; with experts first where it has them."""
    parameters: dict[str, int] = field(repr=False)
    """Number of elements of each parameter of a layer, by its name relative to the layer."""
    num_experts: int = 0
    """Experts in each layer; 0 if the model is no mixture of experts. ``num_neurons`` counts those of all of them."""
    layout: str = ""
    """Name of the row of ``FAMILIES``, where the model type alone does not tell it."""
    unproved: tuple[str, ...] = ()
    """Which of ``PROVED_APART`` does not hold, of a family that is not in ``FAMILIES`` or in a wrapper."""

    absent: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    """The layers that have no such projection (or one of another size), by its name; where all have it, no entry."""
    odd_parameters: dict[int, dict[str, int]] = field(default_factory=dict, repr=False)
    """What ``parameters`` says, for layers of which it is not true."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; ``from_dict`` reads it back."""
        # What says nothing is left out, so that the hashes in files from before there was such a field stay valid.
        data = {name: value for name, value in asdict(self).items() if value or name not in _LATER}
        if self.odd_parameters:
            # As JSON will have it.
            data["odd_parameters"] = {str(layer): sizes for layer, sizes in self.odd_parameters.items()}
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Rebuild from ``to_dict``. Raises GuidedError if the data is not an anatomy."""
        try:
            shapes = {str(k): tuple(int(n) for n in v) for k, v in data["shapes"].items()}
            parameters = {str(k): int(v) for k, v in data["parameters"].items()}
            found = {"shapes": shapes, "parameters": parameters}
            found["unproved"] = tuple(str(name) for name in data.get("unproved", ()))
            found["absent"] = {str(k): tuple(int(n) for n in v) for k, v in data.get("absent", {}).items()}
            odd = data.get("odd_parameters", {}).items()
            found["odd_parameters"] = {int(i): {str(k): int(v) for k, v in sizes.items()} for i, sizes in odd}
            anatomy = cls(**{**data, **found})
        except (TypeError, KeyError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise GuidedError(f"anatomy: not what Anatomy.to_dict writes ({error})") from None
        if not anatomy.adds_up():
            raise GuidedError("anatomy: not what Anatomy.to_dict writes (its numbers contradict each other)")
        return anatomy

    def adds_up(self) -> bool:
        """Whether sizes, shapes and counts agree with each other and with the family's layout."""
        a, f = self, self.family
        numbers = (a.num_layers, a.num_heads, a.num_groups, a.num_neurons, a.head_dim, a.num_parameters)
        if not isinstance(a.prefix, str) or any(type(n) is not int or n < 1 for n in numbers):
            return False
        if type(a.num_experts) is not int or a.num_experts < 0 or bool(a.num_experts) != bool(f.experts):
            return False
        named = f.linear or {*a.shapes, *f.beside} == {*f.projections, *f.beside}
        if not a.shapes or not named or a.num_heads % a.num_groups or a.num_neurons % max(a.num_experts, 1):
            return False
        if f.linear:
            return all(len(shape) == 2 and min(shape) > 0 for shape in a.shapes.values()) and a._layers_add_up()
        for name, shape in a.shapes.items():
            if len(shape) < 2 or shape[:-2] != ((a.num_experts,) if f.of_experts(name) else ()):
                return False
        up_rows = sum(a.outputs_inputs(m)[0] for m in {r.module for r in f.up})
        return (
            all(a._attention_adds_up(m) for m in {r.module for r in f.attention})
            and a.outputs_inputs(f.out)[1] == a.num_heads * a.head_dim
            and up_rows == len(f.up) * a.neurons_per_expert
            and a.outputs_inputs(f.down)[1] == a.neurons_per_expert
            and a._layers_add_up()
        )

    def _layers_add_up(self) -> bool:
        """Whether there are no more parameters in the layers than in the model, and some layer has each part."""
        usual, odd = sum(self.parameters.values()), self.odd_parameters
        total = self.num_layers * usual + sum(sum(sizes.values()) - usual for sizes in odd.values())
        lacking = [
            {i for n in self.family.projections_of(k) for i in self.absent.get(n, ())} for k in ("head", "neuron")
        ]
        return (
            all(min(sizes.values(), default=0) > 0 for sizes in (self.parameters, *odd.values()))
            and total <= self.num_parameters
            and set(self.absent) <= set(self.shapes)
            and all(0 <= i < self.num_layers for layers in (odd, *self.absent.values()) for i in layers)
            and all(len(layers) < self.num_layers for layers in lacking)
        )

    def _attention_adds_up(self, module: str) -> bool:
        """Whether a module has as many rows as the queries, keys and values in it."""
        rows, inside = self.outputs_inputs(module)[0], [r for r in self.family.attention if r.module == module]
        items = sum(self.items(r) for r in inside)
        return rows % items == 0 if inside[0].free else rows == items * self.head_dim

    def items(self, rows: Rows) -> int:
        """How many heads, groups or neurons (of an expert) rows are told apart for."""
        if rows in self.family.up:
            return self.neurons_per_expert
        return self.num_heads if rows == self.family.query else self.num_groups

    @cached_property
    def family(self) -> Family:
        return family_of(self.model_type, self.layout)

    # -- layers that are not alike ----------------------------------------------------------------------------------
    def has(self, name: str, layer: int) -> bool:
        """Whether a layer has a projection, by its name relative to the layer."""
        return layer not in self.absent.get(name, ())

    def has_any(self, kind: str, layer: int) -> bool:
        """Whether a layer has components of a kind that are known here: all of the projections that they need."""
        return kind in self.family.kinds and all(self.has(name, layer) for name in self.family.projections_of(kind))

    def layers_of(self, kind: str) -> list[int]:
        """The layers that have components of a kind."""
        return [layer for layer in range(self.num_layers) if self.has_any(kind, layer)]

    def names_in(self, layer: int) -> list[str]:
        """The projections of a layer, by their names relative to it."""
        return [name for name in self.shapes if self.has(name, layer)]

    def parameters_of(self, layer: int) -> dict[str, int]:
        """Number of elements of each parameter of a layer, by its name relative to the layer."""
        return self.odd_parameters.get(layer, self.parameters)

    @property
    def layers_alike(self) -> bool:
        """Whether all layers have the same parts."""
        return not self.absent and not self.odd_parameters

    def holds(self, name: str) -> bool:
        """Whether one of ``PROVED_APART`` holds for this family."""
        return name not in (*self.family.unproved, *self.unproved)

    @property
    def heads_per_group(self) -> int:
        return self.num_heads // self.num_groups

    @property
    def neurons_per_expert(self) -> int:
        """Neurons in each expert of a layer; all of the layer's where there are no experts."""
        return self.num_neurons // max(self.num_experts, 1)

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        # Where no heads are known, one as wide as the stream stands for them.
        return self.outputs_inputs(self.family.down)[0] if self.family.down else self.head_dim

    @property
    def rows_axis(self) -> int:
        """Axis of a stored weight along which its output rows lie (of an expert's matrix: ``rows_axis_of``)."""
        return int(self.family.transposed)

    def rows_axis_of(self, module: str) -> int:
        """Axis of a stored matrix along which its output rows lie, from its full name."""
        return self.family.rows_axis(self.relative(module))

    def outputs_inputs(self, name: str) -> tuple[int, int]:
        """Outputs and inputs of a projection (of one expert's) by its name relative to the layer."""
        rows, columns = self.shapes[name][-2:]
        return (columns, rows) if self.family.rows_axis(name) else (rows, columns)

    def size(self, kind: str) -> int:
        """Number of components of a kind in one layer."""
        return pick({"layer": 1, "head": self.num_heads, "neuron": self.num_neurons}, kind, "kind")

    def module(self, layer: int, name: str) -> str:
        """Full name of a projection from its name relative to the layer."""
        return f"{self.prefix}.{layer}.{name}"

    def out_module(self, layer: int) -> str:
        """The projection whose input is `z`, all heads side by side ``[..., num_heads * head_dim]``."""
        return self.module(layer, self.family.out)

    def down_module(self, layer: int) -> str:
        """The projection whose input is `post`, the neurons ``[..., num_neurons]`` (of experts: a parameter)."""
        return self.module(layer, self.family.down)

    def experts_module(self, layer: int) -> str:
        """The module that holds the experts' parameters."""
        return self.module(layer, self.family.experts)

    def layer_module(self, layer: int) -> str:
        return f"{self.prefix}.{layer}"

    def relative(self, module: str) -> str:
        """Name of a projection relative to its layer, from its full name."""
        return module.removeprefix(self.prefix + ".").split(".", 1)[1]

    def layer_of(self, module: str) -> int:
        """Number of the layer that a module is in, from its full name."""
        return int(module.removeprefix(self.prefix + ".").split(".", 1)[0])

    def outputs(self, module: str) -> int:
        """Outputs of a projection, from its full name."""
        return self.outputs_inputs(self.relative(module))[0]
