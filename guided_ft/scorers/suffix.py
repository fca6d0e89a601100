"""Run a model again from one of its layers on, many variants at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..batching import model_inputs
from .scene import Scene

Edit = Callable[[torch.Tensor], None]
"""Changes activations ``[sequences per example, copies, examples, tokens, width]`` in place."""


class Suffix:
    """A clean pass over one batch, and as many passes after it as there are questions.

    The hidden states that enter each layer are kept, so that a change inside a layer costs that layer and those
    above it only; several changes run as copies of the batch. Tokens after the last scored position are left out,
    since nothing looks back from them.

    Args:
        scene: with the batch shown.
        layers: which layers will be entered.

    Attributes:
        clean: the task's quantity of the unchanged model ``[examples]``.
    """

    def __init__(self, scene: Scene, layers: set[int]) -> None:
        self.scene = scene
        self.tokens = int(scene.task.scored_columns(scene.batch)[-1]) + 1
        self._sequences = scene.rows // scene.examples
        self._inputs = {
            name: tensor[:, : self.tokens] if name in model_inputs(scene.batch) else tensor
            for name, tensor in scene.batch.items()
            if name != "corrupted_ids"
        }
        self._hidden: dict[int, torch.Tensor] = {}
        self._repeated: tuple[int, Mapping[str, torch.Tensor]] = (1, self._inputs)
        handles = [scene.tap.at_layer(scene.anatomy.layer_module(layer), self._keep(layer)) for layer in layers]
        try:
            self.clean = scene.task.quantity(scene.model, self._inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, layer: int) -> Callable[[torch.Tensor, torch.Tensor], None]:
        return lambda before, after: self._hidden.update({layer: before})

    def without_layer(self, layer: int, added: torch.Tensor | int = 0) -> torch.Tensor:
        """The quantity ``[examples]`` when a layer adds ``added`` to the residual stream and nothing else."""
        hidden = self._hidden[layer]
        return self._run(layer + 1, (hidden + added).to(hidden), 1)[0]

    def edited(self, layer: int, module: str, copies: int, edit: Edit) -> torch.Tensor:
        """The quantity ``[copies, examples]`` when what enters a module of a layer is edited in each copy."""

        def hook(a: torch.Tensor) -> torch.Tensor:
            # OPT hands rows and tokens over as one dimension.
            changed = a.reshape(self._sequences, copies, self.scene.examples, self.tokens, -1).clone()
            edit(changed)
            return changed.reshape(a.shape)

        handle = self.scene.tap.at_input(module, hook)
        try:
            return self._run(layer, self._hidden[layer], copies)
        finally:
            handle.remove()

    def trimmed(self, value: torch.Tensor) -> torch.Tensor:
        """``[rows, tokens, width]`` of the whole batch, less the tokens that are left out; ``[width]`` as it is."""
        return value if value.ndim == 1 else value[:, : self.tokens]

    def by_example(self, value: torch.Tensor) -> torch.Tensor:
        """``[rows, tokens, width] -> [sequences per example, examples, tokens, width]``; ``[width]`` as it is."""
        return value if value.ndim == 1 else value.unflatten(0, (self._sequences, -1))

    def _run(self, layer: int, hidden: torch.Tensor, copies: int) -> torch.Tensor:
        if copies != self._repeated[0]:
            self._repeated = copies, {name: self._repeat(tensor, copies) for name, tensor in self._inputs.items()}
        below = [self.scene.anatomy.layer_module(i) for i in range(layer)]
        handle = self.scene.tap.leave_out(below, self._repeat(hidden, copies))
        try:
            return self.scene.task.quantity(self.scene.model, self._repeated[1]).unflatten(0, (copies, -1))
        finally:
            handle.remove()

    def _repeat(self, tensor: torch.Tensor, copies: int) -> torch.Tensor:
        """Rows ``[sequences * examples] -> [sequences * copies * examples]``, as a batch of more examples lies."""
        if copies == 1:
            return tensor
        rows = tensor.unflatten(0, (-1, 1, self.scene.examples))
        return rows.expand(-1, copies, *rows.shape[2:]).flatten(0, 2)
