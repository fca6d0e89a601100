"""How far each method agrees with the exact effects."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from guided_ft import Anatomy, Component, Task, localize
from guided_ft.scorers import catalogue
from guided_ft.scorers.methods.ablation import effects
from guided_ft.scorers.self_text import self_text
from guided_ft.scorers.stability import stability
from guided_ft.selection.correlation import pearson, spearman
from guided_ft.selection.scoremap import ScoreMap

from .rows import Rows
from .runs import methods
from .tasks import TASKS, answered, pairs_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

NEURONS = 150
"""So many of all neurons, drawn at random, are ablated exactly."""

REPLACED = {"head": ("zero", "corrupted"), "layer": ("zero", "corrupted"), "neuron": ("zero",)}
"""Exact effects to agree with: of zero ablation, and of activation patching from the corrupted prompt."""

RANDOM_SEEDS = 20


def agreement(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    examples: int,
    relations: str | None,
    only: set[str],
) -> None:
    anatomy = Anatomy.of(model)
    rng = np.random.default_rng(0)
    drawn = [
        Component("neuron", int(i) // anatomy.num_neurons, int(i) % anatomy.num_neurons)
        for i in sorted(rng.choice(anatomy.num_layers * anatomy.num_neurons, NEURONS, replace=False).tolist())
    ]
    components = {"head": anatomy.components("head"), "layer": anatomy.components("layer"), "neuron": drawn}
    text = self_text(model, num_examples=32, num_tokens=32)
    of_weights: dict[str, list[ScoreMap]] = {}
    for name, make in TASKS.items():
        task = pairs_of(answered(make(tokenizer, relations), tokenizer)[:examples], 8, name)
        wanted = {k: o for k, o in methods(text).items() if not only or k in only}
        todo = {k: o for k, o in wanted.items() if not rows.has(kind="agreement", task=name, method=k)}
        if not todo:
            continue
        truth = {
            (kind, replace): exact(model, task, rows, kind, chosen, replace)
            for kind, chosen in components.items()
            for replace in REPLACED[kind]
        }
        for label, options in todo.items():
            began = time.process_time()
            seeds = RANDOM_SEEDS if label == "random" else 1
            maps = of_weights.get(label) or [
                localize(model, task, methods={label: options}, retain=None, seed=seed)[label] for seed in range(seeds)
            ]
            if not catalogue.find(options.get("method", label)).needs_data:
                of_weights[label] = maps
            seconds = round(time.process_time() - began, 2)
            for (kind, replace), effect in truth.items():
                if kind in maps[0].kinds:
                    found = [np.array([scores.score(c) for c in components[kind]]) for scores in maps]
                    keys = {"task": name, "method": label, "component": kind, "replace": replace}
                    rows.later(kind="agreement", **keys, cpu_seconds=seconds, **_agreement(found, effect))
            rows.write()
        for kind in [kind for kind, replace in truth if replace == "corrupted"]:
            keys = {"task": name, "method": "exact, zero", "component": kind, "replace": "corrupted"}
            if not rows.has(kind="agreement", **keys):
                rows.add(kind="agreement", **keys, **_agreement([truth[kind, "zero"]], truth[kind, "corrupted"]))


def exact(model: nn.Module, task: Task, rows: Rows, kind: str, chosen: list[Component], replace: str) -> np.ndarray:
    """The exact effects of components, from the file if they are there."""
    keys = {"kind": "exact", "task": task.name, "component": kind, "replace": replace}
    row = rows.find(**keys)
    if row is None:
        began = time.process_time()
        halves, _ = effects(model, Anatomy.of(model), task, chosen, replace=replace)
        seconds = round(time.process_time() - began, 2)
        told = stability({kind: halves[0]}, {kind: halves[1]})[kind]
        row = keys | {"examples": len(task), "cpu_seconds": seconds, "overlap": _overlap(*halves)} | told
        if kind == "neuron":
            row["neurons"] = len(chosen)
        row["halves"] = [[float(f"{x:.5g}") for x in half] for half in halves]
        rows.add(**row)
    return np.sum(row["halves"], 0) / len(task)


def _agreement(found: list[np.ndarray], effect: np.ndarray) -> dict[str, float]:
    """Means over several maps (of random ones)."""
    told = [(spearman(scores, effect), pearson(scores, effect), _overlap(scores, effect)) for scores in found]
    return dict(zip(("spearman", "pearson", "overlap"), np.mean(told, 0).round(4).tolist(), strict=True))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Share in common of the top 20, or of the top third of fewer than 60."""
    k = min(20, len(a) // 3)
    best = [set(np.argsort(-x, kind="stable")[:k].tolist()) for x in (a, b)]
    return len(best[0] & best[1]) / k
