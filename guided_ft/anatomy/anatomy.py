"""``Anatomy``: the read-only map from components to rows and columns of weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GuidedError
from .component import KINDS, Component
from .families import Rows
from .layout import Layout
from .reading import read_model
from .slices import Part, Slice, merged

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Anatomy(Layout):
    """The parts of a model and where they live. Holds numbers and names only, never the model.

    Example::

        anatomy = Anatomy.of(model)
        anatomy.slices("L3.H5")  # the rows of q, k, v and the columns of o that are head 5 of layer 3
    """

    @classmethod
    def of(cls, model: nn.Module) -> Anatomy:
        """Read the anatomy of a Hugging Face causal LM (a PeftModel is looked through to its base).

        Raises:
            GuidedError: for an architecture without a row in ``FAMILIES``, or whose layers differ in size.
        """
        return cls(**read_model(model))

    def components(self, kind: str) -> list[Component]:
        """All components of a kind, in order."""
        return [self.component(kind, layer, i) for layer in range(self.num_layers) for i in range(self.size(kind))]

    def component(self, kind: str, layer: int, position: int) -> Component:
        """The component at a place of a ScoreMap's row: neuron ``n`` of expert ``e`` is at ``e * (N / E) + n``."""
        if kind == "neuron" and self.num_experts:
            expert, index = divmod(position, self.neurons_per_expert)
            return Component(kind, layer, index, expert)
        return Component(kind, layer, position)

    def position(self, component: Component) -> int:
        """The place of a component in a ScoreMap's row; undoes ``component``."""
        return (component.expert or 0) * self.neurons_per_expert + component.index

    def check(self, component: Component) -> Component:
        """Return the component, or raise GuidedError if this model has none of that name."""
        kind, layer = component.kind, component.layer
        if not 0 <= layer < self.num_layers:
            raise GuidedError(f"{component}: this model has {self.num_layers} layers (L0 to L{self.num_layers - 1})")
        size = self.size(kind)
        known = f"({self.component(kind, layer, 0)} to {self.component(kind, layer, size - 1)})"
        if component.expert is None and kind == "neuron" and self.num_experts:
            raise GuidedError(f"{component}: the neurons of this model are those of its experts {known}")
        if component.expert is not None:
            if kind != "neuron" or not self.num_experts:
                raise GuidedError(f"{component}: the {kind}s of this model are not those of experts {known}")
            if not 0 <= component.expert < self.num_experts:
                raise GuidedError(f"{component}: this model has {self.num_experts} experts in layer {layer} {known}")
            if not 0 <= component.index < self.neurons_per_expert:
                size = self.neurons_per_expert
                raise GuidedError(f"{component}: this model has {size} neurons in each expert {known}")
        elif not 0 <= component.index < size:
            raise GuidedError(f"{component}: this model has {size} {kind}s in layer {layer} {known}")
        return component

    def slices(self, component: Component | str) -> list[Slice]:
        """Everything in the weights that a component is made of.

        A head: its rows of q, its columns of the out-projection, and the k and v rows of its group, which it may
        share with other heads (``trainable`` leaves shared rows out). A neuron: its rows of gate and up and its
        column of down, those of its expert where there are experts. A layer: all rows of all projections.
        """
        component = self.check(Component.parse(component) if isinstance(component, str) else component)
        return merged(_SLICES[component.kind](self, component))

    def trainable(self, components: Iterable[Component]) -> list[Slice]:
        """The slices that a set of components trains.

        A key/value group is trained only if all of its query heads are chosen: changing it for one head would
        change the heads that were left out.
        """
        chosen = {self.check(c) for c in components}
        parts: list[Part] = []
        for component in chosen:
            if component.kind != "head":
                parts += _SLICES[component.kind](self, component)
                continue
            parts += self._own(component)
            group = component.index // self.heads_per_group
            members = range(group * self.heads_per_group, (group + 1) * self.heads_per_group)
            if all(Component("head", component.layer, i) in chosen for i in members):
                parts += self._shared(component)
        return merged(parts)

    def cost(self, components: Iterable[Component]) -> int:
        """Parameters in ``trainable(components)``; a layer counts whole, its norms and biases too."""
        chosen = {self.check(c) for c in components}
        layers = {c.layer for c in chosen if c.kind == "layer"}
        rest = self.trainable(c for c in chosen if c.layer not in layers)
        return len(layers) * sum(self.parameters.values()) + sum(self.slice_cost(s) for s in rest)

    def slice_cost(self, part: Slice) -> int:
        """Parameters in one slice."""
        rows, columns = self.shapes[self.relative(part.module)][-2:]
        return len(part.index) * (columns if part.axis == 0 else rows)

    def head_rows(self, rows: Rows) -> np.ndarray:
        """Output rows of every query head, or of every group for key and value: ``[items, head_dim]``."""
        items = self.num_heads if rows is self.family.query else self.num_groups
        return np.array([list(self._rows(rows, 0, i, self.head_dim)[2]) for i in range(items)])

    def neuron_rows(self, rows: Rows) -> np.ndarray:
        """Output row of every neuron, in its expert's matrix where there are experts: ``[neurons_per_expert]``."""
        return np.array([self._rows(rows, 0, i, 1)[2][0] for i in range(self.neurons_per_expert)])

    # -- parts ------------------------------------------------------------------------------------------------------
    def _rows(self, rows: Rows, layer: int, item: int, unit: int, expert: int | None = None) -> Part:
        units = rows.heads * self.num_heads + rows.groups * self.num_groups + rows.neurons * self.neurons_per_expert
        start = (units + rows.offset + item * rows.stride) * unit
        axis = self.family.rows_axis(rows.module)
        return self.module(layer, rows.module), axis, range(start, start + unit), expert

    def _columns(self, name: str, layer: int, item: int, unit: int, expert: int | None = None) -> Part:
        axis = 1 - self.family.rows_axis(name)
        return self.module(layer, name), axis, range(item * unit, (item + 1) * unit), expert

    def _own(self, head: Component) -> list[Part]:
        f, d = self.family, self.head_dim
        return [self._rows(f.query, head.layer, head.index, d), self._columns(f.out, head.layer, head.index, d)]

    def _shared(self, head: Component) -> list[Part]:
        group = head.index // self.heads_per_group
        return [self._rows(r, head.layer, group, self.head_dim) for r in (self.family.key, self.family.value)]

    def _head(self, head: Component) -> list[Part]:
        return self._own(head) + self._shared(head)

    def _neuron(self, neuron: Component) -> list[Part]:
        rows = [self._rows(r, neuron.layer, neuron.index, 1, neuron.expert) for r in self.family.up]
        return [*rows, self._columns(self.family.down, neuron.layer, neuron.index, 1, neuron.expert)]

    def _layer(self, layer: Component) -> list[Part]:
        parts: list[Part] = []
        for name, shape in self.shapes.items():
            axis = self.family.rows_axis(name)
            experts = range(self.num_experts) if self.family.of_experts(name) else (None,)
            parts += [(self.module(layer.layer, name), axis, range(shape[-2:][axis]), expert) for expert in experts]
        return parts


_SLICES = {"layer": Anatomy._layer, "head": Anatomy._head, "neuron": Anatomy._neuron}
assert set(_SLICES) == set(KINDS)
