"""``Family``: the layout of one layer, as data; ``llamas.py``, ``gpts.py`` and ``experts.py`` hold the known ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .component import KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PROVED_APART = {
    "writes": "each layer adds to the residual stream what heads and MLP write, through the norms named, and no more",
    "reads": "attention and MLP read the residual stream through the norms named",
    "logits": "the final norm and the unembedding, scaled as named, make the logits",
}
"""What scorers of the stream need, and the rest does not."""


@dataclass(frozen=True)
class Rows:
    """Output rows of ``module``: item ``i`` owns rows ``[start + i * stride, start + i * stride + 1)`` of its unit.

    Args:
        module: name of the projection, relative to the layer.
        heads, groups, neurons: how many times all query heads, all key/value groups or all neurons lie before the first
            item: ``heads=1``, if the module begins with all queries.
        offset: further units before the first item.
        stride: units from one item to the next.
        by_group: the module holds one block for each key/value group, its query heads, its key and its value; the
            numbers above then count those of one block.
        free: the module holds these items only, side by side, and an item is as wide as the rows make it.
    """

    module: str
    heads: int = 0
    groups: int = 0
    neurons: int = 0
    offset: int = 0
    stride: int = 1
    by_group: bool = False
    free: bool = False


@dataclass(frozen=True)
class Family:
    """The layout of one layer.

    Args:
        model_types: the ``config.model_type`` values that have this layout.
        layers: name of the list of layers in the decoder.
        query, key, value: rows of head ``j`` (query) or of its group (key, value); the unit is ``head_dim`` rows. Key
            and value are the same where one projection makes both from what heads share.
        out: the projection whose input columns carry head ``j`` (its input is `z`).
        up: rows of neuron ``n``; the unit is one row.
        down: the projection whose input columns carry neuron ``n`` (its input is `post`).
        beside: further projections, of no head or neuron: shared experts, the MLP of layers without experts. They
            belong to their layer, and not every layer needs to have them.
        name: of the layout, if its model types have others too.
        when: settings of the config, and the values that mean this layout.
        transposed: weights are stored ``[in, out]`` (GPT-2's Conv1D).
        joint_norm: query and key are normalized over all heads together, so their gradients mix heads.
        norms: the norms through which attention and MLP read the residual stream, if any, relative to the layer.
        post_norms: the norms through which they write to it, if any.
        final_norm: the norm before the unembedding, relative to the decoder.
        parallel: whether attention and MLP read the same residual stream, or the setting that says so.
        stream: settings with the values without which the layer does something else to the residual stream than add
            to it what attention and MLP write.
        writes: the setting that all is multiplied by which is written to it.
        logits: the setting that the logits are multiplied by, or with ``/`` before it, divided by.
        experts: in a mixture of experts the module that holds ``up`` and ``down`` as parameters with one matrix per
            expert, ``[experts, rows, columns]``; their rows are then those of neuron ``n`` of one expert.
        experts_transposed: the experts' matrices are stored ``[in, out]``.
        mixed: layers mix tokens by other means too, beside attention, which keep no keys and values.
        unproved: which of ``PROVED_APART`` does not hold although the rest does.
        linear: of the layers nothing is known but their linear layers, whose names are read from the model.
    """

    model_types: tuple[str, ...]
    layers: str
    query: Rows
    key: Rows
    value: Rows
    out: str
    up: tuple[Rows, ...]
    down: str
    beside: tuple[str, ...] = ()
    name: str = ""
    when: tuple[tuple[str, object], ...] = ()
    transposed: bool = False
    joint_norm: bool = False
    norms: tuple[str, str] = ("", "")
    post_norms: tuple[str, str] = ("", "")
    final_norm: str = "norm"
    parallel: bool | str = False
    stream: tuple[tuple[str, object], ...] = ()
    writes: str = ""
    logits: str = ""
    experts: str = ""
    experts_transposed: bool = False
    mixed: bool = False
    unproved: tuple[str, ...] = ()
    linear: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of components that are known."""
        return KINDS[:1] if self.linear else KINDS

    @property
    def layout(self) -> str:
        """What the layout is called."""
        return self.name or self.model_types[0]

    def meets(self, config: PreTrainedConfig) -> bool:
        """Whether a config has the settings that mean this layout."""
        return all(getattr(config, name, None) == value for name, value in self.when)

    def of_experts(self, name: str) -> bool:
        """Whether a projection is a parameter with one matrix per expert."""
        return bool(self.experts) and name.startswith(f"{self.experts}.")

    def rows_axis(self, name: str) -> int:
        """Axis of a projection's stored matrix (of one expert's) along which its output rows lie."""
        return int(self.experts_transposed if self.of_experts(name) else self.transposed)

    @property
    def attention(self) -> tuple[Rows, ...]:
        """The rows of heads and of their groups."""
        if self.linear:
            return ()
        return tuple(dict.fromkeys((self.query, self.key, self.value)))

    @property
    def latent(self) -> bool:
        """Whether keys and values are made by one projection, of a vector that all heads share."""
        return self.key == self.value

    def projections_of(self, kind: str) -> tuple[str, ...]:
        """Names of the projections that heads or neurons need, relative to the layer; layers need none."""
        if kind == "layer" or self.linear:
            return ()
        rows, into = (self.attention, self.out) if kind == "head" else (self.up, self.down)
        return tuple(dict.fromkeys([*(r.module for r in rows), into]))

    @property
    def projections(self) -> tuple[str, ...]:
        """Names of the projections of heads and neurons, relative to the layer."""
        return tuple(dict.fromkeys([*self.projections_of("head"), *self.projections_of("neuron")]))


LINEAR = Family(
    model_types=(),
    name="linear",
    layers="",
    query=Rows(""),
    key=Rows(""),
    value=Rows(""),
    out="",
    up=(),
    down="",
    unproved=tuple(PROVED_APART),
    linear=True,
)
"""What serves models of no other layout: layers, and directions at the inputs of their linear layers."""
