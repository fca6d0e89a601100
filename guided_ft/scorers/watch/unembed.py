"""From the residual stream to the vocabulary: the final norm and the unembedding of a model, and their transposes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ...anatomy import PROVED_APART
from ...errors import GuidedError
from ...task.tokens import IGNORE
from .scene import Scene

_CHUNK = 256


@dataclass(frozen=True)
class Answers:
    """Where a batch asks for what: one entry per scored token.

    Args:
        row, column: of the token that predicts it.
        token, wrong: the right next token and, where the task has wrong answers, that one (else None).
        weight: of the token in its example: 1 / tokens; for preferences 1 (chosen) or -1 (rejected).
    """

    row: torch.Tensor
    column: torch.Tensor
    token: torch.Tensor
    wrong: torch.Tensor | None
    weight: torch.Tensor

    @classmethod
    def of(cls, scene: Scene) -> Answers:
        labels, wrong = scene.batch["labels"][:, 1:], scene.batch.get("wrong")
        asked = labels != IGNORE if wrong is None else (wrong[:, 1:] != IGNORE) & (labels != IGNORE)
        row, column = asked.nonzero(as_tuple=True)
        weight = 1 / asked.sum(1)[row].float()
        if scene.task.is_preference:
            weight = torch.where(row < scene.examples, 1.0, -1.0)
        other = None if wrong is None else wrong[:, 1:][row, column]
        return cls(row, column, labels[row, column], other, weight)

    def at(self, a: torch.Tensor) -> torch.Tensor:
        """``[rows, tokens, width] -> [answers, width]``, float32."""
        return a[self.row.to(a.device), self.column.to(a.device)].float()

    def examples(self, scene: Scene, values: torch.Tensor) -> torch.Tensor:
        """Weighted sum by example: ``[answers, ...] -> [examples, ...]``."""
        weight = self.weight.to(values).reshape(-1, *[1] * (values.ndim - 1))
        out = values.new_zeros(scene.examples, *values.shape[1:])
        return out.index_add(0, (self.row % scene.examples).to(values.device), values * weight)


class Unembedding:
    """The way from the last hidden states to the logits."""

    def __init__(self, scene: Scene) -> None:
        config: Any = scene.base.config.get_text_config()
        check_stream(scene, "logits")
        decoder = scene.anatomy.prefix.rpartition(".")[0]
        self.norm_name = f"{decoder}.{scene.anatomy.family.final_norm}"
        self.norm = scene.base.get_submodule(self.norm_name)
        self.head: nn.Module = scene.base.get_output_embeddings()
        self.cap = getattr(config, "final_logit_softcapping", None)
        setting = scene.anatomy.family.logits
        times = float(getattr(config, setting.removeprefix("/"))) if setting else 1.0
        self.times = 1 / times if setting.startswith("/") else times
        # A norm may have no parameters.
        self._dtype = next(self.norm.parameters(), next(scene.base.parameters())).dtype

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[answers, width] -> [answers, vocabulary]``, float32."""
        logits = self.times * self.head.forward(self.norm.forward(hidden.to(self._dtype))).float()
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def read(self, hidden: torch.Tensor, token: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of the token (nats) and whether it is the most likely one: each ``[answers]``."""
        found = []
        for part, wanted in zip(hidden.split(_CHUNK), token.split(_CHUNK), strict=True):
            logits = self.logits(part)
            right = logits.gather(1, wanted[:, None])[:, 0]
            found.append((right - logits.logsumexp(1), logits.argmax(1) == wanted))
        return torch.cat([p for p, _ in found]), torch.cat([t for _, t in found])

    def directions(self, answers: Answers) -> torch.Tensor:
        """What raises each answer's logit above the mean one, or the wrong answer's ``[answers, width]``.

        Raises GuidedError if the unembedding carries an adapter, whose part is not in the weight.
        """
        adapted = self.head if isinstance(self.head, BaseTunerLayer) else None
        if adapted is not None and not adapted.merged and not adapted.disable_adapters:
            raise GuidedError("direct_logit: the output head carries an adapter (merge it first)")
        weight = cast(torch.Tensor, self.head.weight).detach()
        other = weight.float().mean(0) if answers.wrong is None else weight[answers.wrong].float()
        return self.times * (weight[answers.token].float() - other)


def check_reading(scene: Scene) -> None:
    """Raise GuidedError for a model whose norms stand behind the residual sums: its stream cannot be read."""
    config: Any = scene.base.config.get_text_config()
    for setting, value in scene.anatomy.family.stream:
        found = getattr(config, setting)
        if found != value:
            kind = f"{scene.anatomy.model_type} with {setting}={str(found).lower()}"
            raise GuidedError(f"{kind}: it norms the residual stream itself")


def check_stream(scene: Scene, *needed: str) -> None:
    """Raise GuidedError for a model of which some of ``PROVED_APART`` does not hold."""
    check_reading(scene)
    for name in needed:
        _require(scene, name)


def _require(scene: Scene, name: str) -> None:
    if not scene.anatomy.holds(name):
        says = PROVED_APART[name]
        raise GuidedError(f"{scene.anatomy.model_type}: not proved, and needed here: {says} (try 'attribution')")


def is_parallel(scene: Scene) -> bool:
    """Whether attention and MLP read the same residual stream."""
    setting = scene.anatomy.family.parallel
    if isinstance(setting, bool):
        return setting
    return bool(getattr(scene.base.config.get_text_config(), setting))


def write_scale(scene: Scene) -> float:
    """What everything is multiplied by before it is added to the residual stream."""
    setting = scene.anatomy.family.writes
    return float(getattr(scene.base.config.get_text_config(), setting)) if setting else 1.0


@torch.no_grad()
def frozen_norm(norm: nn.Module, at: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Pull a direction back through a norm whose scale is held at what it is for the hidden states ``at``.

    ``at, direction [..., width] -> [..., width]``. With the scale held a norm is linear, so that what passes it can
    be told apart into what each component has written.
    """
    dtype = next(norm.parameters()).dtype if any(True for _ in norm.parameters()) else at.dtype
    nothing = torch.zeros_like(at[..., :1, :], dtype=dtype)
    zero, flat = norm.forward(nothing).float(), norm.forward(nothing + 1).float()
    # A norm that takes the mean away leaves nothing of what is everywhere the same, whatever class it is of.
    centred = bool((flat - zero).abs().max() <= 1e-3 * (flat.abs().max() + 1))
    # Of mean 0 and mean square 1.
    signs = torch.ones_like(nothing).float()
    signs[..., 1::2] = -1
    gain = (norm.forward(signs.to(dtype)).float() - zero) * signs if centred else flat - zero
    inside = at.float() - at.float().mean(-1, keepdim=True) if centred else at.float()
    out, plain = norm.forward(at.to(dtype)).float() - zero, gain * inside
    scale = (out * plain).sum(-1, keepdim=True) / plain.square().sum(-1, keepdim=True).clamp(min=1e-30)
    back = scale * gain * direction
    return back - back.mean(-1, keepdim=True) if centred else back


def pull_back(function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Vector-Jacobian product of a module's ``forward`` (past its hooks) at an input, quantized or adapted or not."""
    with torch.enable_grad():
        point = at.detach().requires_grad_(True)
        (down,) = torch.autograd.grad(function(point), point, up)
    return down
