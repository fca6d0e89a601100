"""Planted circuits and planted training: what was put there by hand is found again, a random choice does not find it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import planted
import pytest
import tiny
import torch
from families import make

from guided_ft.anatomy import Anatomy
from guided_ft.plan.plan import Plan
from guided_ft.scorers.faithfulness import faithfulness
from guided_ft.scorers.localize import localize
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.selection.selection import Selection
from guided_ft.task.task import Task

SEEDS = (0, 1, 2)
PARTS = {"head": planted.HEAD_PARTS, "neuron": planted.NEURON_PARTS}


def recall(scores: ScoreMap, parts, kind: str) -> float:
    """Share of the planted parts among as many of the highest-scored components of their kind."""
    best = {c for c, _ in scores.top(kind, len(parts))}
    return len(best & set(parts)) / len(parts)


def right(model, task: Task) -> float:
    with torch.no_grad():
        found = [model(input_ids=b["input_ids"]).logits[:, -2].argmax(-1) == b["labels"][:, -1] for b in task.batches()]
    return float(torch.cat(found).double().mean())


# -- planted circuits -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", planted.FAMILIES)
def test_the_planted_circuit_does_the_task_and_nothing_else_does(family):
    for seed in SEEDS:
        model, task = planted.plant(family, seed=seed), planted.task(seed=seed)
        assert right(model, task) > 0.9
        anatomy = Anatomy.of(model)
        for kind, parts in PARTS.items():
            broken = planted.plant(family, seed=seed)
            with torch.no_grad():
                for c in parts:
                    name = anatomy.out_module(c.layer) if kind == "head" else anatomy.down_module(c.layer)
                    part = next(s for s in anatomy.slices(c) if s.module == name and s.axis != anatomy.rows_axis)
                    broken.get_submodule(name).weight.index_fill_(part.axis, torch.tensor(part.index), 0)
            assert right(broken, task) < 0.3


@pytest.mark.parametrize("method", ["attribution", "ablation", "random"])
@pytest.mark.parametrize("family", planted.FAMILIES)
def test_planted_parts_are_found(family, method):
    found = {kind: [] for kind in PARTS}
    for seed in SEEDS:
        task = planted.task(seed=seed)
        scores = localize(planted.plant(family, seed=seed), task, method, retain=None, kinds=tuple(PARTS), seed=seed)
        for kind, parts in PARTS.items():
            found[kind].append(recall(scores, parts, kind))
        if method == "ablation":
            # The distractors are alive: each of them changes the loss.
            assert scores.head.min() > 1e-5
            assert np.quantile(scores.neuron, 0.1) > 1e-6
    for kind, values in found.items():
        if method == "random":
            assert np.mean(values) < 0.35, kind
        else:
            assert np.mean(values) >= 0.95, (kind, values)


@pytest.mark.parametrize("family", planted.FAMILIES)
def test_the_planted_heads_alone_are_faithful(family):
    model, task = planted.plant(family), planted.task()
    scores = localize(model, task, "ablation", retain=None, kinds=("head",))
    share = len(planted.HEAD_PARTS) / scores.head.size
    found = faithfulness(scores, model, planted.task(seed=5), fractions=(share, 0.5, 1.0), draws=10)
    assert found.held_out
    assert found.curve[0] > 0.8 > 0.5 > found.band["mean"][0]
    assert found.without[0] < 0.2
    assert found.cmd < found.random["cmd"]


# -- planted training -------------------------------------------------------------------------------------------------
COUNT, STEPS, LEARNING_RATE = 16, 60, 0.02
FACTS = [
    {"prompt": f"{a}+{b} =", "completion": f" {right}", "wrong": f" {wrong}"}
    for a, b, right, wrong in ((12, 36, 48, 51), (33, 21, 54, 38), (71, 18, 89, 96), (25, 41, 66, 53))
]


def moved(base, tuned, task: Task) -> ScoreMap:
    """How far the weights of each neuron went (Euclidean)."""
    anatomy = Anatomy.of(base)
    scores = np.zeros((anatomy.num_layers, anatomy.num_neurons))
    for c in anatomy.components("neuron"):
        for part in anatomy.slices(c):
            change = tuned.get_submodule(part.module).weight - base.get_submodule(part.module).weight
            scores[c.layer, c.index] += float(
                change.index_select(part.axis, torch.tensor(part.index)).detach().square().sum()
            )
    return ScoreMap(anatomy, neuron=np.sqrt(scores))


def of_tuned(method: str, **options) -> Callable[..., ScoreMap]:
    return lambda base, tuned, task: localize(tuned, task, method, retain=None, kinds=("neuron",), **options)


def gained(method: str, **options) -> Callable[..., ScoreMap]:
    """What a component does after the training and did not do before."""

    def score(base, tuned, task):
        after, before = (localize(m, task, method, retain=None, kinds=("neuron",), **options) for m in (tuned, base))
        return ScoreMap(after.anatomy, neuron=after.neuron - before.neuron)

    return score


FINDERS: dict[str, tuple[Callable[..., ScoreMap], float]] = {
    "weights moved": (moved, 1.0),
    "magnitude gained": (gained("magnitude"), 0.9),
    "attribution": (of_tuned("attribution"), 0.7),
    "attribution gained": (gained("attribution"), 0.85),
    "integrated gradients gained": (gained("integrated_gradients"), 0.7),
    "gradient gained": (gained("gradient"), 0.7),
    "fisher gained": (gained("fisher"), 0.7),
    "ablation gained": (gained("ablation"), 0.8),
}
"""How to look for trained neurons, and the recall to reach. A random choice reaches 16 of 192: 0.08; exact ablation is
what the estimates can reach at best, since not every neuron that was trained came to matter."""


def untrained():
    """A tiny model whose MLPs have little to say yet."""
    model = make("llama", layers=4)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(0.3)
    return model


@pytest.fixture(scope="module")
def trained():
    """A tiny model whose 16 random neurons learned a few facts, the same model before, and the question about them."""
    base, task = untrained(), Task.from_dataset(FACTS, tiny.tokenizer(), metric="logit_diff")
    lesson = replace(task, metric="loss")
    anatomy = Anatomy.of(base)
    chosen = random.Random(0).sample(anatomy.components("neuron"), COUNT)
    model = Plan(Selection(anatomy, tuple(chosen)), mode="slice").attach(untrained())
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=LEARNING_RATE)
    (batch,) = lesson.batches()
    before = float(lesson.quantity(base, batch).mean().detach())
    for _ in range(STEPS):
        loss = lesson.quantity(model, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # The final norm and the tied output bound the logits: a third of a nat is as sure as this model gets.
    assert loss.detach() < 0.5 < 3 < before
    return base, model.merge_and_unload(), task, chosen


@pytest.mark.parametrize("name", FINDERS)
def test_trained_neurons_are_found_again(trained, name):
    base, tuned, task, chosen = trained
    find, bar = FINDERS[name]
    assert recall(find(base, tuned, task), chosen, "neuron") >= bar


def test_a_random_choice_does_not_find_them(trained):
    base, _, task, chosen = trained
    found = [recall(localize(base, task, "random", kinds=("neuron",), seed=s), chosen, "neuron") for s in range(20)]
    assert np.mean(found) < 0.2
