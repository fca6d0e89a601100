"""``Anatomy``: the read-only map from components to rows and columns of weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import GuidedError
from .causal import check_causal
from .component import KINDS, Component
from .family import Rows
from .layout import Layout
from .linear import read_linear
from .proof import Proof
from .reading import base_model, read_model
from .slices import Part, Slice, merged
from .trust import layout_of, prove

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

        A family without a row in ``FAMILIES`` is proved first, on a tiny copy of its config (``prove``): some seconds,
        once per process. If it is built like one with a row and proved to be, it has heads and neurons; or else layers
        alone, and directions at the inputs of their linear layers.

        Raises:
            GuidedError: for an architecture that is not known and cannot be proved, or whose numbers do not add up.
        """
        base = base_model(model)
        check_causal(model, base)
        family, unproved = layout_of(base)
        anatomy = cls(**(read_linear(base) if family.linear else read_model(base, family)))
        if not anatomy.adds_up():
            raise GuidedError(
                f"{anatomy.model_type}: the layout {family.layout!r} does not fit this config: {anatomy.num_heads} "
                f"heads in {anatomy.num_groups} groups of width {anatomy.head_dim} are not what its projections hold"
            )
        return replace(anatomy, unproved=unproved)

    @staticmethod
    def prove(model: nn.Module) -> Proof:
        """Prove on a tiny random copy of the model's config that its map is true and that everything computes alike.

        Runs on the CPU in seconds and leaves the model alone. ``print(Anatomy.prove(model))`` says what holds.
        A config may be given instead of a model.

        Raises:
            GuidedError: for an architecture of which nothing is known, or whose config cannot be made small.
        """
        return prove(model)

    def components(self, kind: str) -> list[Component]:
        """All components of a kind, in order."""
        size = self.size(kind)
        return [self.component(kind, layer, i) for layer in self.layers_of(kind) for i in range(size)]

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
        self.check_kinds([kind])
        if not self.has_any(kind, layer):
            some = f"(layers {', '.join(map(str, self.layers_of(kind)))} have)"
            raise GuidedError(f"{component}: layer {layer} of this model has no {kind}s that are known here {some}")
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

    def check_kinds(self, kinds: Iterable[str]) -> None:
        """Raise GuidedError for a kind of components of which nothing is known in this model."""
        for kind in kinds:
            if kind not in self.family.kinds:
                raise GuidedError(
                    f"{kind}: nothing is known of the {kind}s of {self.model_type}, a family without a row (directions "
                    "and layers are: write mode subspace, or kinds layer)"
                )

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
        whole = sum(sum(self.parameters_of(layer).values()) for layer in layers)
        return whole + sum(self.slice_cost(s) for s in rest)

    def slice_cost(self, part: Slice) -> int:
        """Parameters in one slice."""
        rows, columns = self.shapes[self.relative(part.module)][-2:]
        return len(part.index) * (columns if part.axis == 0 else rows)

    def head_rows(self, rows: Rows) -> np.ndarray:
        """Output rows of every query head, or of every group for key and value: ``[items, width of an item]``."""
        return np.array([list(self._rows(rows, 0, i)[2]) for i in range(self.items(rows))])

    def neuron_rows(self, rows: Rows) -> np.ndarray:
        """Output row of every neuron, in its expert's matrix where there are experts: ``[neurons_per_expert]``."""
        return np.array([self._rows(rows, 0, i)[2][0] for i in range(self.neurons_per_expert)])

    # -- parts ------------------------------------------------------------------------------------------------------
    def _rows(self, rows: Rows, layer: int, item: int, expert: int | None = None) -> Part:
        before = rows.heads * self.num_heads + rows.groups * self.num_groups + rows.neurons * self.neurons_per_expert
        first = before + rows.offset + item * rows.stride
        unit = 1 if rows in self.family.up else self.head_dim
        if rows.free:
            unit = self.outputs_inputs(rows.module)[0] // self.items(rows)
        elif rows.by_group:
            # Items of one group: as many query heads as it has, or its one key or value.
            own = self.heads_per_group if rows == self.family.query else 1
            inside = rows.heads * self.heads_per_group + rows.groups + rows.offset
            first = item // own * (self.heads_per_group + 2) + inside + item % own
        axis = self.family.rows_axis(rows.module)
        return self.module(layer, rows.module), axis, range(first * unit, (first + 1) * unit), expert

    def _columns(self, name: str, layer: int, item: int, unit: int, expert: int | None = None) -> Part:
        axis = 1 - self.family.rows_axis(name)
        return self.module(layer, name), axis, range(item * unit, (item + 1) * unit), expert

    def _own(self, head: Component) -> list[Part]:
        f, d = self.family, self.head_dim
        return [self._rows(f.query, head.layer, head.index), self._columns(f.out, head.layer, head.index, d)]

    def _shared(self, head: Component) -> list[Part]:
        group = head.index // self.heads_per_group
        return [self._rows(r, head.layer, group) for r in self.family.attention[1:]]

    def _head(self, head: Component) -> list[Part]:
        return self._own(head) + self._shared(head)

    def _neuron(self, neuron: Component) -> list[Part]:
        rows = [self._rows(r, neuron.layer, neuron.index, neuron.expert) for r in self.family.up]
        return [*rows, self._columns(self.family.down, neuron.layer, neuron.index, 1, neuron.expert)]

    def _layer(self, layer: Component) -> list[Part]:
        parts: list[Part] = []
        for name in self.names_in(layer.layer):
            axis, shape = self.family.rows_axis(name), self.shapes[name]
            experts = range(self.num_experts) if self.family.of_experts(name) else (None,)
            parts += [(self.module(layer.layer, name), axis, range(shape[-2:][axis]), expert) for expert in experts]
        return parts


_SLICES = {"layer": Anatomy._layer, "head": Anatomy._head, "neuron": Anatomy._neuron}
assert set(_SLICES) == set(KINDS)
