"""What the tests of scorers share: tasks, and sums over a component's weights that are written down once more."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tiny
import torch

from guided_ft.anatomy import Anatomy, Component
from guided_ft.scorers import catalogue
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.task.task import Task

PAIRS = [
    {"prompt": f"{i}+{j} =", "completion": f" {i + j}", "corrupted_prompt": f"{j}+{i} ="}
    for i, j in ((1, 2), (3, 4), (12, 25), (2, 5), (14, 31), (7, 6))
]

OPTIONS: dict[str, dict[str, Any]] = {
    # Small: what is tested are laws, not the quality of the scores.
    "ablation": {"kinds": ("layer", "head")},
    "eap": {"keep": 0.5},
    "gates": {"steps": 2},
    "integrated_gradients": {"steps": 2},
    "low_rank": {"rank": 4},
    "movement": {"steps": 2},
}

SETS = [name for name, method in catalogue.CATALOGUE.items() if method.compares]


def sums(count: int = 6, batch_size: int = 8, first: int = 0, **settings: Any) -> Task:
    rows = tiny.sums(first + count)[first:]
    return dataclasses.replace(Task.from_dataset(rows, tiny.tokenizer(), batch_size=batch_size), **settings)


def pairs(count: int = 6, batch_size: int = 8, **settings: Any) -> Task:
    """With corrupted prompts, and examples of different lengths."""
    return dataclasses.replace(Task.from_dataset(PAIRS[:count], tiny.tokenizer(), batch_size=batch_size), **settings)


def preferences(count: int = 4, batch_size: int = 8, **settings: Any) -> Task:
    return dataclasses.replace(
        Task.from_dataset(tiny.pairs(count), tiny.tokenizer(), batch_size=batch_size), **settings
    )


def all_methods(against: Task, skip: tuple[str, ...] = (), **more: Any) -> dict[str, dict[str, Any]]:
    """Every method of the catalogue with small options, by name."""
    wanted = {}
    for name in catalogue.CATALOGUE:
        options = {k: v for k, v in OPTIONS.get(name, {}).items() if k != "kinds"}
        wanted[name] = options | ({"retain": against} if name in SETS else {})
    return {name: options for name, options in wanted.items() if name not in skip}


def same(a: ScoreMap, b: ScoreMap, tolerance: float = 1e-5, what: str = "") -> None:
    assert a.kinds == b.kinds
    for kind in a.kinds:
        scale = np.abs(a.of(kind)).max()
        np.testing.assert_allclose(b.of(kind), a.of(kind), rtol=tolerance, atol=tolerance * scale, err_msg=what)


def owned(anatomy: Anatomy, component: Component, values: dict[str, torch.Tensor]) -> float:
    """Sum of ``values`` (by module, shaped like its stored weight) over the weights that a component owns.

    A head owns its query rows and out-columns, and an equal share of its group's key and value rows.
    """
    total = 0.0
    query = (
        set(anatomy.head_rows(anatomy.family.query)[component.index].tolist()) if component.kind == "head" else set()
    )
    for part in anatomy.slices(component):
        chosen = values[part.module].index_select(part.axis, torch.tensor(part.index))
        if component.kind != "head" or part.axis != anatomy.rows_axis:
            total += float(chosen.double().sum())
            continue
        mine = query if part.module.endswith(anatomy.family.query.module) else set()
        rows = chosen.double().sum(1 - part.axis)
        for i, row in zip(part.index, rows.tolist(), strict=True):
            total += row if i in mine else row / anatomy.heads_per_group
    return total


def all_owned(anatomy: Anatomy, kind: str, values: dict[str, torch.Tensor]) -> np.ndarray:
    found = [owned(anatomy, c, values) for c in anatomy.components(kind)]
    return np.array(found).reshape(anatomy.num_layers, -1).squeeze()


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The stored weights of all projections, by module."""
    anatomy = Anatomy.of(model)
    names = [anatomy.module(layer, name) for layer in range(anatomy.num_layers) for name in anatomy.shapes]
    return {name: model.get_submodule(name).weight for name in names}


def example_gradients(model: torch.nn.Module, task: Task) -> list[dict[str, torch.Tensor]]:
    """The gradients of all projections for each example alone, by autograd."""
    found = []
    model.requires_grad_(True)
    for i in range(len(task)):
        one = task.part([i])
        model.zero_grad()
        one.loss(one.quantity(model, next(one.batches()))).sum().backward()
        found.append({name: w.grad.detach().clone() for name, w in weights(model).items()})
    model.zero_grad()
    return found


METHODS = tuple(catalogue.CATALOGUE)

DATA = tuple(name for name in METHODS if catalogue.CATALOGUE[name].needs_data)
