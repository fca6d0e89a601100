"""What could be added to training along located parts, each an arm of its own: none is in the package.

- ``A`` moves, too, at a small share of the rate.
- Directions are located anew while it trains, and what was learned is folded into the weights.
- ``B`` is kept off the outputs that text which must be kept reads most (the second factor of K-FAC, arXiv 1503.05671).
- Slices, with each update projected off gradients of text that must be kept (OGD, arXiv 1910.07104, but after Adam).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.lora import LoraLayer
from transformers import TrainerCallback

from guided_ft.plan import Plan
from guided_ft.plan.modes.mode import ADAPTER
from guided_ft.scorers.directions import localize_directions
from guided_ft.scorers.self_text import self_text

from ..arms.parts import AsideLocated, MovingDirected, OutwardDirected, RedrawnDirected
from .directed import directed
from .located import located
from .setup import Setup, Trial

if TYPE_CHECKING:
    from guided_ft.task import Task

TEXTS, TOKENS = 64, 64
"""Text that the base model samples, as much as a map of directions looks at."""


def moving(way: MovingDirected, trial: Trial) -> Setup:
    """Start ``A`` at the directions, and train it at a share of the rate of ``B``."""
    setup = _attached(way, trial)
    for _, layer in _layers(setup.model):
        layer.frozen_peft_weight_names = {}
        layer.lora_A[ADAPTER].weight.requires_grad_(True)

    def optimizer(model: Any, rate: float) -> torch.optim.Optimizer:
        mine = {part: [getattr(m, f"lora_{part}")[ADAPTER].weight for _, m in _layers(model)] for part in "AB"}
        groups: list[dict[str, Any]] = [{"params": mine["B"]}, {"params": mine["A"], "lr": way.share * rate}]
        return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)

    setup.optimizer = optimizer
    return setup


def redrawn(way: RedrawnDirected, trial: Trial) -> Setup:
    """Locate as often as the way says, each time on the model as it is by then, with the ranks of the first map."""
    setup = _attached(way, trial)
    every = -(-trial.cell.steps // way.maps)
    setup.callbacks.append(_Redraw(way, trial, every))
    # Of the last part of the change alone there is no share.
    setup.rewinds = False
    return setup


def outward(way: OutwardDirected, trial: Trial) -> Setup:
    """Take from ``B``, after every step, what lies along outputs that kept text reads most."""
    setup = _attached(way, trial)
    with _counted(setup):
        read = _read_outputs(trial, setup.model, way.energy)
    setup.callbacks.append(_After(lambda: _take(setup.model, read)))
    return setup


def aside(way: AsideLocated, trial: Trial) -> Setup:
    """Take from each step of the slices what lies along the gradients of kept text."""
    setup = located(way, trial)
    setup.model = _plan(setup).attach(trial.model)
    with _counted(setup):
        text = _kept(trial)
    setup.callbacks.append(_Aside(setup.model, text, way.gradients, way.every))
    return setup


def _attached(way: Any, trial: Trial) -> Setup:
    """As ``directed``, but the model has its adapter already, and no callback holds it to the plan."""
    setup = directed(way, trial)
    return Setup(
        _plan(setup).attach(trial.model), localize_seconds=setup.localize_seconds, localize_cpu=setup.localize_cpu
    )


@contextlib.contextmanager
def _counted(setup: Setup) -> Iterator[None]:
    """What is done inside counts as localization."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    setup.localize_seconds += time.perf_counter() - wall
    setup.localize_cpu += time.process_time() - cpu


def _plan(setup: Setup) -> Plan:
    assert setup.guided is not None
    assert setup.guided.plan is not None
    return setup.guided.plan


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers of a LoRA, by their names in the base model."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name.removeprefix("base_model.model."), module


def _kept(trial: Trial) -> Task:
    seed = trial.cell.seed
    return self_text(trial.model, num_examples=TEXTS, num_tokens=TOKENS, seed=seed, progress=False)


class _Redraw(TrainerCallback):
    """Folds what was learned into the weights, and gives ``A`` new directions and ``B`` and its moments zeros."""

    def __init__(self, way: RedrawnDirected, trial: Trial, every: int) -> None:
        self.way, self.trial, self.every = way, trial, every

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % self.every or state.global_step >= state.max_steps:
            return
        plain = self.trial.lab.model().to(model.device)
        with torch.no_grad():
            for name, layer in _layers(model):
                layer.base_layer.weight += layer.get_delta_weight(ADAPTER)
                plain.get_submodule(name).weight.copy_(layer.base_layer.weight)
        trial, way = self.trial, self.way
        budget, seed = trial.parameters, trial.cell.seed
        found = localize_directions(
            plain, trial.task(), way.retain, lam=way.lam, budget=budget, seed=seed, progress=False
        )
        with torch.no_grad():
            for name, layer in _layers(model):
                a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
                a.copy_(torch.from_numpy(found.bases[name][: len(a)]))
                b.zero_()
                kwargs["optimizer"].state.pop(b, None)


class _After(TrainerCallback):
    """Does something after every step."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.call()


def _read_outputs(trial: Trial, model: Any, energy: float) -> dict[str, torch.Tensor]:
    """For each layer the fewest orthonormal output directions ``[k, out]`` that hold a share of what the loss of kept
    text says of its outputs: top eigenvectors of the mean of ``d d^T`` over tokens, ``d`` being its gradient there."""
    sums: dict[str, torch.Tensor] = {}

    def add(name: str, d: torch.Tensor) -> None:
        d = d.detach().flatten(0, -2).double()
        sums[name] = sums.get(name, 0) + d.T @ d

    def hook(name: str) -> Callable[..., None]:
        def watch(module: Any, inputs: Any, output: torch.Tensor) -> None:
            output.register_hook(lambda d: add(name, d))

        return watch

    text = _kept(trial)
    hooks = [layer.register_forward_hook(hook(name)) for name, layer in _layers(model)]
    try:
        for batch in text.batches(model.device):
            model(**batch).loss.backward()
    finally:
        for each in hooks:
            each.remove()
        model.zero_grad(set_to_none=True)
    found = {}
    for name, total in sums.items():
        values, vectors = torch.linalg.eigh(total)
        left = values.clamp(min=0).flip(0).cumsum(0) / values.clamp(min=0).sum()
        count = int((left < energy).sum()) + 1
        found[name] = vectors.flip(1)[:, :count].T.float().contiguous()
    return found


@torch.no_grad()
def _take(model: Any, read: dict[str, torch.Tensor]) -> None:
    for name, layer in _layers(model):
        b, u = layer.lora_B[ADAPTER].weight, read[name]
        b -= u.T @ (u @ b)


class _Aside(TrainerCallback):
    """Projects each step of all trained parameters off the span of some gradients of kept text, drawn anew now and
    then."""

    def __init__(self, model: Any, text: Task, gradients: int, every: int) -> None:
        self.text, self.gradients, self.every = text, gradients, every
        self.span: torch.Tensor | None = None
        self.before: list[torch.Tensor] = []
        self.batches = list(text.batches(next(model.parameters()).device))

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self.span = self._gradients(model)
        self.before = [p.detach().clone() for p in _trained(model)]

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        assert self.span is not None
        with torch.no_grad():
            mine = _trained(model)
            moved = torch.cat([(p - old).flatten() for p, old in zip(mine, self.before, strict=True)])
            moved -= self.span @ (self.span.T @ moved)
            parts = moved.split([p.numel() for p in mine])
            for p, old, part in zip(mine, self.before, parts, strict=True):
                p.copy_(old + part.view_as(p))

    def _gradients(self, model: Any) -> torch.Tensor:
        """Orthonormal, ``[parameters, gradients]``."""
        found = []
        for batch in self.batches[: self.gradients]:
            loss = model(**batch).loss
            found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, _trained(model))]))
        return torch.linalg.qr(torch.stack(found, 1))[0]


def _trained(model: Any) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]
