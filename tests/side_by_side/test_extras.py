"""The extras do what they are called after, and nothing else moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bench_lab import cell, lab_of
from transformers import TrainerControl, TrainerState

from benchmarks.side_by_side.arms.arms import ARMS
from benchmarks.side_by_side.training import extras
from benchmarks.side_by_side.training.ready import ready
from benchmarks.side_by_side.training.setup import Setup, Trial


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return lab_of("llama", tmp_path_factory.mktemp("model"))


def made(lab: Any, arm: str) -> tuple[Trial, Setup]:
    asked = cell(arm)
    rows = lab.suite.problems["sums"].rows(12, 0)[0]
    trial = Trial(lab, asked, lab.model(), rows)
    return trial, ready(ARMS[arm].way, trial)


def factors(model: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {
        name: tuple(getattr(layer, f"lora_{part}")["default"].weight.detach().clone() for part in "AB")
        for name, layer in extras._layers(model)
    }


def stepped(setup: Setup, optimizer: Any, trial: Trial, steps: int, limit: int = 4) -> None:
    """Steps as a trainer takes them, with all callbacks but those of the package."""
    state, control = TrainerState(global_step=0, max_steps=limit), TrainerControl()
    batch = next(trial.task().batches("cpu"))
    for _ in range(steps):
        for callback in setup.callbacks:
            callback.on_step_begin(None, state, control, model=setup.model, optimizer=optimizer)
        optimizer.zero_grad()
        setup.model(**{k: batch[k] for k in ("input_ids", "attention_mask", "labels")}).loss.backward()
        optimizer.step()
        state.global_step += 1
        for callback in setup.callbacks:
            callback.on_step_end(None, state, control, model=setup.model, optimizer=optimizer)


def adam(model: Any) -> Any:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)


def test_directions_move_at_a_share_of_the_rate(lab):
    trial, setup = made(lab, "directions:moving")
    before = factors(setup.model)
    assert setup.optimizer is not None
    # The first step changes B alone: A has no gradient while B is zero.
    stepped(setup, setup.optimizer(setup.model, 1e-2), trial, 2)
    moves = [
        (new[0] - old[0]).abs().max().item()
        for old, new in zip(before.values(), factors(setup.model).values(), strict=True)
    ]
    # Adam's steps are as long as the rate.
    assert 0 < max(moves) <= 1.01e-4 * 2


def test_what_was_learned_is_folded_in_when_directions_are_located_anew(lab):
    trial, setup = made(lab, "directions:redrawn")
    assert not setup.rewinds
    optimizer = adam(setup.model)
    base = {name: p.clone() for name, p in lab.model().named_parameters()}
    stepped(setup, optimizer, trial, 1)
    first = factors(setup.model)
    ids = torch.arange(6)[None]
    state = {name: (layer.base_layer.weight.clone()) for name, layer in extras._layers(setup.model)}
    assert all(torch.equal(weight, base[f"{name}.weight"]) for name, weight in state.items())
    stepped_twice = TrainerState(global_step=2, max_steps=4)
    with torch.no_grad():
        whole = setup.model(input_ids=ids).logits
    setup.callbacks[-1].on_step_end(None, stepped_twice, TrainerControl(), model=setup.model, optimizer=optimizer)
    second = factors(setup.model)
    with torch.no_grad():
        assert torch.allclose(setup.model(input_ids=ids).logits, whole, atol=1e-5)
    for name, (a, b) in second.items():
        assert not b.any()
        assert not torch.equal(a, first[name][0])
        assert torch.allclose(a.norm(dim=1), torch.ones(len(a)), atol=1e-3)
        weight = setup.model.get_submodule(f"base_model.model.{name}").base_layer.weight
        assert torch.allclose(weight, state[name] + first[name][1] @ first[name][0], atol=1e-6)
    held = {id(p) for p in optimizer.state}
    assert not held & {id(layer.lora_B["default"].weight) for _, layer in extras._layers(setup.model)}


def test_the_last_step_locates_nothing(lab):
    trial, setup = made(lab, "directions:redrawn")
    stepped(setup, adam(setup.model), trial, 4)
    assert all(b.any() for _, b in factors(setup.model).values())


def test_outputs_that_kept_text_reads_stay(lab):
    trial, setup = made(lab, "directions:outward")
    read = extras._read_outputs(trial, setup.model, 0.5)
    stepped(setup, adam(setup.model), trial, 2)
    for name, (_, b) in factors(setup.model).items():
        u = read[name]
        assert torch.allclose(u @ u.T, torch.eye(len(u)), atol=1e-4)
        assert 1 <= len(u) < len(b)
        assert b.any()
        assert (u @ b).abs().max() < 1e-5 * max(1.0, b.abs().max().item())


def test_read_outputs_hold_the_share_and_no_fewer_would(lab):
    trial, setup = made(lab, "directions:outward")
    model, sums = setup.model, {}
    # Gradients at the outputs, asked for one batch after the other, without a backward pass through hooks.
    for batch in extras._kept(trial).batches("cpu"):
        outputs = {}
        hooks = [
            layer.register_forward_hook(
                lambda module, inputs, out, name=name, outputs=outputs: outputs.update({name: out})
            )
            for name, layer in extras._layers(model)
        ]
        loss = model(**batch).loss
        for each in hooks:
            each.remove()
        for name, d in zip(outputs, torch.autograd.grad(loss, list(outputs.values())), strict=True):
            d = d.flatten(0, -2)
            sums[name] = sums.get(name, 0) + d.T @ d
    for name, u in extras._read_outputs(trial, model, 0.5).items():
        held = torch.stack([row @ sums[name] @ row for row in u]) / sums[name].trace()
        assert held.sum() >= 0.5 - 1e-4
        assert held[:-1].sum() < 0.5
        assert torch.equal(held, held.sort(descending=True).values)


def test_steps_of_slices_leave_the_gradients_of_kept_text(lab):
    trial, setup = made(lab, "guided:aside")
    own = [p for p in setup.model.parameters() if p.requires_grad]
    before = torch.cat([p.detach().clone().flatten() for p in own])
    stepped(setup, adam(setup.model), trial, 1)
    moved = torch.cat([p.detach().flatten() for p in own]) - before
    span = setup.callbacks[-1].span
    assert span.shape == (len(moved), 8)
    assert moved.norm() > 0
    assert (span.T @ moved).abs().max() < 1e-4 * moved.norm()
