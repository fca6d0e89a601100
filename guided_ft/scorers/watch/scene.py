"""``Scene``: what a recorder can see of the batch that runs, and where it can put its hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ...anatomy import Anatomy, stored_weight
from ...errors import GuidedError
from ...slice.storage import is_quantized
from ...task.batching import model_inputs
from ...task.task import Task
from ...task.tokens import IGNORE
from .tap import Tap

Seen = Callable[[str, int, torch.Tensor], None]
Activation = Callable[[], torch.Tensor]
SeenGradient = Callable[[str, int, torch.Tensor, torch.Tensor], None]


class Scene:
    """A model that runs over a task, batch by batch, under a Tap.

    Attributes:
        mask: ``[rows, tokens]``, true at real tokens.
        first: number of the batch's first example in the task.
        phase: which part of the pass runs, for passes that have parts.
        owners: by name of something large that several recorders need, the one that keeps it.
    """

    def __init__(self, tap: Tap, anatomy: Anatomy, task: Task) -> None:
        self.tap = tap
        self.model, self.base = tap.model, tap.base
        self.anatomy = anatomy
        self.task = task
        self.phase: Any = "clean"
        self.batch: dict[str, torch.Tensor] = {}
        self.mask = torch.zeros(0)
        self.first = 0
        self.owners: dict[str, Any] = {}

    # -- the batch --------------------------------------------------------------------------------------------------
    def show(self, batch: dict[str, torch.Tensor], first: int = 0) -> None:
        """The next batch comes on."""
        self.batch, self.mask, self.phase = batch, batch["attention_mask"].bool(), "clean"
        self.first = first

    @property
    def rows(self) -> int:
        return self.mask.shape[0]

    @property
    def examples(self) -> int:
        """Examples in this batch (a preference example has two rows)."""
        return self.rows // len(self.task.examples[0])

    @property
    def scored(self) -> torch.Tensor:
        """``[rows, tokens]``, true where the next token belongs to the answer."""
        following = torch.full_like(self.batch["labels"], IGNORE)
        following[:, :-1] = self.batch["labels"][:, 1:]
        return following != IGNORE

    def without_first(self, count: int) -> torch.Tensor:
        """The mask without the first ``count`` real tokens of every row, on which attention sinks live."""
        return self.mask & (self.mask.cumsum(1) > count)

    def corrupted(self) -> dict[str, torch.Tensor]:
        """The batch with the corrupted prompts. Raises GuidedError if the task has none."""
        if "corrupted_ids" not in self.batch:
            raise GuidedError(f"task {self.task.name!r}: it has no corrupted prompts, which this method needs")
        return self.batch | {"input_ids": self.batch["corrupted_ids"]}

    # -- running it -------------------------------------------------------------------------------------------------
    def forward(self, batch: Mapping[str, torch.Tensor] | None = None) -> None:
        """Run the model for its activations."""
        # One token's logits: nobody reads them, and all of them can take more memory than everything else.
        self.model(**model_inputs(batch or self.batch), use_cache=False, logits_to_keep=1)

    def loss(self) -> torch.Tensor:
        """Run the model for the loss per example ``[examples]``."""
        return self.task.loss(self.task.quantity(self.model, self.batch))

    # -- shapes -----------------------------------------------------------------------------------------------------
    def tokens(self, a: torch.Tensor) -> torch.Tensor:
        """``[rows, tokens, width]`` (OPT hands rows and tokens over as one dimension)."""
        return a.reshape(*self.mask.shape, a.shape[-1])

    def split(self, a: torch.Tensor, kind: str) -> torch.Tensor:
        """``[..., components * width] -> [..., components, width]``."""
        return a.unflatten(-1, (self.anatomy.size(kind), -1))

    def per_example(self, values: torch.Tensor) -> torch.Tensor:
        """Sum what belongs to one example: ``[rows, ...] -> [examples, ...]``."""
        return self.task.per_example(values)

    def joined(self, a: torch.Tensor) -> torch.Tensor:
        """Put the tokens of one example side by side: ``[rows, tokens, width] -> [examples, tokens, width]``."""
        return a.unflatten(0, (-1, self.examples)).transpose(0, 1).flatten(1, 2)

    def name_of(self, module: nn.Module) -> str:
        """Name of a module in the base model."""
        return next(name for name, found in self.base.named_modules() if found is module)

    # -- hooks ------------------------------------------------------------------------------------------------------
    def at_components(self, kinds: tuple[str, ...], seen: Seen) -> None:
        """Call ``seen(kind, layer, a)`` with the activations ``[rows, tokens, components * width]`` of each layer.

        A head's activation is its part of the out-projection's input (`z`), a neuron's its part of the
        down-projection's (`post`); a layer's is what it adds to the residual stream.
        """
        self._at(kinds, lambda kind, layer, a, source: seen(kind, layer, a()))

    def at_gradients(self, kinds: tuple[str, ...], seen: SeenGradient) -> None:
        """Call ``seen(kind, layer, a, g)`` with the activations and the gradients of the loss, when these are known."""

        def ready(kind: str, layer: int, a: Activation, source: torch.Tensor) -> None:
            self.tap.at_gradient(source, lambda g: seen(kind, layer, a(), self.tokens(g)))

        self._at(kinds, ready)

    def at_gradients_alone(self, kinds: tuple[str, ...], seen: Seen) -> None:
        """Call ``seen(kind, layer, g)``, and keep no activation until then."""

        def ready(kind: str, layer: int, a: Activation, source: torch.Tensor) -> None:
            self.tap.at_gradient(source, lambda g: seen(kind, layer, self.tokens(g)))

        self._at(kinds, ready)

    def at_products(self, kinds: tuple[str, ...], seen: Seen) -> None:
        """Call ``seen(kind, layer, p)`` with activation times gradient, ``[rows, tokens, components * width]``.

        Of gated neurons, up times its gradient is taken, which is the same number: autograd keeps the former anyway,
        while the product of gate and up would be kept for this alone.
        """
        gated = "neuron" in kinds and len(self.anatomy.family.up) > 1 and not self.anatomy.num_experts
        plain = tuple(kind for kind in kinds if kind != "neuron" or not gated)
        self.at_gradients(plain, lambda kind, layer, a, g: seen(kind, layer, a.float() * g.float()))
        if not gated:
            return
        up = self.anatomy.family.up[-1]
        rows = self.anatomy.neuron_rows(up)
        part = slice(int(rows[0]), int(rows[-1]) + 1)

        def watch(layer: int) -> None:
            def hook(x: torch.Tensor, y: torch.Tensor) -> None:
                value = y.detach()
                self.tap.at_gradient(
                    y, lambda g: seen("neuron", layer, self.tokens(value[..., part].float() * g[..., part].float()))
                )

            self.tap.at_module(self.anatomy.module(layer, up.module), hook)

        for layer in self.anatomy.layers_of("neuron"):
            watch(layer)

    def at_layers(self, seen: Callable[[int, torch.Tensor, torch.Tensor], None]) -> None:
        """Call ``seen(layer, hidden_in, hidden_out)``, each ``[rows, tokens, width]``."""

        def watch(layer: int) -> None:
            def hook(before: torch.Tensor, after: torch.Tensor) -> None:
                seen(layer, before.detach(), after.detach())

            self.tap.at_layer(self.anatomy.layer_module(layer), hook)

        for layer in range(self.anatomy.num_layers):
            watch(layer)

    def at_projections(self, seen: Callable[[str, torch.Tensor], None], names: Iterable[str] | None = None) -> None:
        """Call ``seen(name, x)`` with what enters each projection ``[rows, tokens, in]``, or each of ``names``."""
        for name in self.projections() if names is None else names:
            self.tap.at_input(name, lambda x, name=name: seen(name, self.tokens(x.detach())))  # type: ignore[misc]

    def at_projection_gradients(
        self, seen: Callable[[str, torch.Tensor, torch.Tensor], None], names: Iterable[str] | None = None
    ) -> None:
        """Call ``seen(name, x, g)``: what enters a projection, or one of ``names``, and the gradient of what leaves it.

        The gradient of the weight is ``g.T @ x``: all that there is to know about it, example by example, without
        making it.
        """

        def watch(name: str) -> None:
            def hook(x: torch.Tensor, y: torch.Tensor) -> None:
                x = self.tokens(x.detach())
                self.tap.at_gradient(y, lambda g: seen(name, x, self.tokens(g)))

            self.tap.at_module(name, hook)

        for name in self.projections() if names is None else names:
            refuse_experts(self.anatomy, name)
            watch(name)

    def at_weights(self, method: str, seen: Callable[[str, torch.Tensor], None]) -> None:
        """Call ``seen(name, gradient)`` with the gradient of each projection's weight, summed over the batch."""
        for name in self.projections():
            weight = checked(stored_weight(self.base, name), name, method)
            self.tap.at_weight_gradient(weight, lambda g, name=name: seen(name, g))  # type: ignore[misc]

    def projections(self) -> list[str]:
        """Full names of the projections of all layers."""
        a = self.anatomy
        return [a.module(layer, name) for layer in range(a.num_layers) for name in a.names_in(layer)]

    def _at(self, kinds: tuple[str, ...], seen: Callable[[str, int, Activation, torch.Tensor], None]) -> None:
        a = self.anatomy

        def watch_input(name: str, kind: str, layer: int) -> None:
            def hook(x: torch.Tensor) -> None:
                value = self.tokens(x.detach())
                seen(kind, layer, lambda: value, x)

            self.tap.at_input(name, hook)

        def watch_layer(layer: int) -> None:
            def hook(before: torch.Tensor, after: torch.Tensor) -> None:
                # The two are kept by the norms that read them; their difference would be one tensor more.
                first, last = before.detach(), after.detach()
                seen("layer", layer, lambda: last - first, after)

            self.tap.at_layer(a.layer_module(layer), hook)

        for layer in range(a.num_layers):
            if "head" in kinds and a.has_any("head", layer):
                watch_input(a.out_module(layer), "head", layer)
            if "neuron" in kinds and a.has_any("neuron", layer):
                watch_input(a.down_module(layer), "neuron", layer)
            if "layer" in kinds:
                watch_layer(layer)


def refuse_experts(anatomy: Anatomy, name: str) -> None:
    """Raise GuidedError for a projection of experts, to which no module's input and output belong."""
    if anatomy.family.of_experts(anatomy.relative(name)):
        raise GuidedError(f"{name}: experts share no input, so this method cannot score their weights (try 'gradient')")


def checked(weight: nn.Parameter, name: str, method: str) -> nn.Parameter:
    """Return a weight that can be read and trained. Raises GuidedError for a quantized one."""
    if is_quantized(weight):
        raise GuidedError(f"{method}: {name} is quantized (use method='attribution', or load the model unquantized)")
    return weight


def float_weight(base: nn.Module, name: str, method: str) -> torch.Tensor:
    """The weight of a projection as float32, without adapters. Raises GuidedError for a quantized one."""
    return checked(stored_weight(base, name), name, method).detach().float()
