"""``Anatomy``: the read-only map from components to rows and columns of weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GuidedError, pick
from .component import KINDS, Component
from .families import Family, Rows, family_of
from .reading import read_model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Slice:
    """Some rows or columns of one weight matrix.

    Args:
        module: dotted name of the module in the model.
        axis: axis of the weight as it is stored.
        index: sorted indices along that axis.
    """

    module: str
    axis: int
    index: tuple[int, ...]


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model and where they live. Holds numbers and names only, never the model.

    Example::

        anatomy = Anatomy.of(model)
        anatomy.slices("L3.H5")  # the rows of q, k, v and the columns of o that are head 5 of layer 3
    """

    model_type: str
    prefix: str
    num_layers: int
    num_heads: int
    num_groups: int
    num_neurons: int
    head_dim: int
    num_parameters: int
    shapes: dict[str, tuple[int, int]] = field(repr=False)
    """Stored shape of each projection, by its name relative to the layer."""
    parameters: dict[str, int] = field(repr=False)
    """Number of elements of each parameter of a layer, by its name relative to the layer."""

    # -- making one -------------------------------------------------------------------------------------------------
    @classmethod
    def of(cls, model: nn.Module) -> Anatomy:
        """Read the anatomy of a Hugging Face causal LM (a PeftModel is looked through to its base).

        Raises:
            GuidedError: for an architecture without a row in ``FAMILIES``, or whose layers differ in size.
        """
        return cls(**read_model(model))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; ``from_dict`` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Anatomy:
        """Rebuild from ``to_dict``. Raises GuidedError if the data is not an anatomy."""
        try:
            shapes = {str(k): (int(v[0]), int(v[1])) for k, v in data["shapes"].items()}
            parameters = {str(k): int(v) for k, v in data["parameters"].items()}
            anatomy = cls(**{**data, "shapes": shapes, "parameters": parameters})
        except (TypeError, KeyError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise GuidedError(f"anatomy: not what Anatomy.to_dict writes ({error})") from None
        if not anatomy._adds_up():
            raise GuidedError("anatomy: not what Anatomy.to_dict writes (its numbers contradict each other)")
        return anatomy

    def _adds_up(self) -> bool:
        """Whether the numbers can be those of one model."""
        f, inputs, outputs = self.family, 1 - self.rows_axis, self.rows_axis
        numbers = (
            self.num_layers,
            self.num_heads,
            self.num_groups,
            self.num_neurons,
            self.head_dim,
            self.num_parameters,
        )
        if not isinstance(self.prefix, str) or any(type(n) is not int or n < 1 for n in numbers):
            return False
        if set(self.shapes) != set(f.projections) or self.num_heads % self.num_groups:
            return False
        qkv_rows, up_rows = (
            sum(self.shapes[m][outputs] for m in {r.module for r in rows}) for rows in ((f.query, f.key, f.value), f.up)
        )
        return (
            qkv_rows == (self.num_heads + 2 * self.num_groups) * self.head_dim
            and self.shapes[f.out][inputs] == self.num_heads * self.head_dim
            and up_rows == len(f.up) * self.num_neurons
            and self.shapes[f.down][inputs] == self.num_neurons
            and min(self.parameters.values(), default=0) > 0
            and self.num_layers * sum(self.parameters.values()) <= self.num_parameters
        )

    # -- reading it -------------------------------------------------------------------------------------------------
    @cached_property
    def family(self) -> Family:
        return family_of(self.model_type)

    @property
    def heads_per_group(self) -> int:
        return self.num_heads // self.num_groups

    @property
    def rows_axis(self) -> int:
        """Axis of a stored weight along which its output rows lie."""
        return int(self.family.transposed)

    def size(self, kind: str) -> int:
        """Number of components of a kind in one layer."""
        return pick({"layer": 1, "head": self.num_heads, "neuron": self.num_neurons}, kind, "kind")

    def components(self, kind: str) -> list[Component]:
        """All components of a kind, in order."""
        return [Component(kind, layer, i) for layer in range(self.num_layers) for i in range(self.size(kind))]

    def check(self, component: Component) -> Component:
        """Return the component, or raise GuidedError if this model has none of that name."""
        if not 0 <= component.layer < self.num_layers:
            raise GuidedError(f"{component}: this model has {self.num_layers} layers (L0 to L{self.num_layers - 1})")
        size = self.size(component.kind)
        if not 0 <= component.index < size:
            last = Component(component.kind, component.layer, size - 1)
            raise GuidedError(
                f"{component}: this model has {size} {component.kind}s in layer {component.layer} "
                f"({Component(component.kind, component.layer, 0)} to {last})"
            )
        return component

    def module(self, layer: int, name: str) -> str:
        """Full name of a projection from its name relative to the layer."""
        return f"{self.prefix}.{layer}.{name}"

    def out_module(self, layer: int) -> str:
        """The projection whose input is `z`, all heads side by side ``[..., num_heads * head_dim]``."""
        return self.module(layer, self.family.out)

    def down_module(self, layer: int) -> str:
        """The projection whose input is `post`, the neurons ``[..., num_neurons]``."""
        return self.module(layer, self.family.down)

    def layer_module(self, layer: int) -> str:
        return f"{self.prefix}.{layer}"

    def slices(self, component: Component | str) -> list[Slice]:
        """Everything in the weights that a component is made of.

        A head: its rows of q, its columns of the out-projection, and the k and v rows of its group, which it may
        share with other heads (``trainable`` leaves shared rows out). A neuron: its rows of gate and up and its
        column of down. A layer: all rows of all projections.
        """
        component = self.check(Component.parse(component) if isinstance(component, str) else component)
        return self._merged(_SLICES[component.kind](self, component))

    def trainable(self, components: Iterable[Component]) -> list[Slice]:
        """The slices that a set of components trains.

        A key/value group is trained only if all of its query heads are chosen: changing it for one head would
        change the heads that were left out.
        """
        chosen = {self.check(c) for c in components}
        parts: list[tuple[str, int, range]] = []
        for component in chosen:
            if component.kind != "head":
                parts += _SLICES[component.kind](self, component)
                continue
            parts += self._own(component)
            group = component.index // self.heads_per_group
            members = range(group * self.heads_per_group, (group + 1) * self.heads_per_group)
            if all(Component("head", component.layer, i) in chosen for i in members):
                parts += self._shared(component)
        return self._merged(parts)

    def cost(self, components: Iterable[Component]) -> int:
        """Parameters in ``trainable(components)``; a layer counts whole, its norms and biases too."""
        chosen = {self.check(c) for c in components}
        layers = {c.layer for c in chosen if c.kind == "layer"}
        rest = self.trainable(c for c in chosen if c.layer not in layers)
        return len(layers) * sum(self.parameters.values()) + sum(self.slice_cost(s) for s in rest)

    def slice_cost(self, part: Slice) -> int:
        """Parameters in one slice."""
        rows, columns = self.shapes[self.relative(part.module)]
        return len(part.index) * (columns if part.axis == 0 else rows)

    def relative(self, module: str) -> str:
        """Name of a projection relative to its layer, from its full name."""
        return module.removeprefix(self.prefix + ".").split(".", 1)[1]

    def head_rows(self, rows: Rows) -> np.ndarray:
        """Output rows of every query head, or of every group for key and value: ``[items, head_dim]``."""
        items = self.num_heads if rows is self.family.query else self.num_groups
        return np.array([list(self._rows(rows, 0, i, self.head_dim)[2]) for i in range(items)])

    def neuron_rows(self, rows: Rows) -> np.ndarray:
        """Output row of every neuron: ``[num_neurons]``."""
        return np.array([self._rows(rows, 0, i, 1)[2][0] for i in range(self.num_neurons)])

    # -- parts ------------------------------------------------------------------------------------------------------
    def _rows(self, rows: Rows, layer: int, item: int, unit: int) -> tuple[str, int, range]:
        units = rows.heads * self.num_heads + rows.groups * self.num_groups + rows.neurons * self.num_neurons
        start = (units + rows.offset + item * rows.stride) * unit
        return self.module(layer, rows.module), self.rows_axis, range(start, start + unit)

    def _columns(self, name: str, layer: int, item: int, unit: int) -> tuple[str, int, range]:
        return self.module(layer, name), 1 - self.rows_axis, range(item * unit, (item + 1) * unit)

    def _own(self, head: Component) -> list[tuple[str, int, range]]:
        f, d = self.family, self.head_dim
        return [self._rows(f.query, head.layer, head.index, d), self._columns(f.out, head.layer, head.index, d)]

    def _shared(self, head: Component) -> list[tuple[str, int, range]]:
        group = head.index // self.heads_per_group
        return [self._rows(r, head.layer, group, self.head_dim) for r in (self.family.key, self.family.value)]

    def _head(self, head: Component) -> list[tuple[str, int, range]]:
        return self._own(head) + self._shared(head)

    def _neuron(self, neuron: Component) -> list[tuple[str, int, range]]:
        rows = [self._rows(r, neuron.layer, neuron.index, 1) for r in self.family.up]
        return [*rows, self._columns(self.family.down, neuron.layer, neuron.index, 1)]

    def _layer(self, layer: Component) -> list[tuple[str, int, range]]:
        axis = self.rows_axis
        return [(self.module(layer.layer, n), axis, range(shape[axis])) for n, shape in self.shapes.items()]

    @staticmethod
    def _merged(parts: Iterable[tuple[str, int, range]]) -> list[Slice]:
        index: dict[tuple[str, int], set[int]] = {}
        for module, axis, items in parts:
            index.setdefault((module, axis), set()).update(items)
        return [Slice(module, axis, tuple(sorted(items))) for (module, axis), items in sorted(index.items())]


_SLICES = {"layer": Anatomy._layer, "head": Anatomy._head, "neuron": Anatomy._neuron}
assert set(_SLICES) == set(KINDS)
