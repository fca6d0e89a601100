"""Exact ablation the slow and plain way, the oracle of the fast one: one component, one example, one whole pass each,
without padding, copies or shortcuts."""

from __future__ import annotations

import dataclasses

import tiny
import torch

from guided_ft.anatomy import Anatomy
from guided_ft.task.task import Task


def losses(model, task, i, edits=()):
    """Mean negative log-likelihood, or the pair's margin, of one example; and what each named module was given."""
    handles = [register(model) for register in edits]
    found = []
    with torch.no_grad():
        for sequence in task.examples[i]:
            logits = model(input_ids=torch.tensor([sequence.ids])).logits[0].float().log_softmax(-1)
            nll = [-logits[t - 1, label] for t, label in enumerate(sequence.labels) if label != -100 and t > 0]
            found.append(torch.stack(nll).sum() / (1 if task.is_preference else len(nll)))
    for handle in handles:
        handle.remove()
    return found[0] if not task.is_preference else found[1] - found[0]


def said(model, anatomy, ids, kind, layer):
    """What a whole kind says in a layer on one sequence: ``[tokens, width]``."""
    kept = []
    if kind == "layer":
        module = model.get_submodule(anatomy.layer_module(layer))
        handle = module.register_forward_hook(
            lambda m, args, kwargs, out: kept.append((out - (args[0] if args else kwargs["hidden_states"]))[0]),
            with_kwargs=True,
        )
    else:
        name = anatomy.out_module(layer) if kind == "head" else anatomy.down_module(layer)
        handle = model.get_submodule(name).register_forward_pre_hook(
            lambda m, args: kept.append(args[0].reshape(len(ids), -1))
        )
    with torch.no_grad():
        model(input_ids=torch.tensor([list(ids)]))
    handle.remove()
    return kept[0]


def effect(model, task, component, i, value):
    """Change of one example's loss with the component saying ``value[sequence number] [tokens, width]`` (whole width
    of its module), ``None``: nothing."""
    anatomy = Anatomy.of(model)
    others = iter(value or [None] * len(task.examples[i]))

    def new():
        return next(others)

    if component.kind == "layer":
        module = model.get_submodule(anatomy.layer_module(component.layer))

        def hook(m, args, kwargs, out):
            before, other = args[0] if args else kwargs["hidden_states"], new()
            return before if other is None else before + other

        register = lambda _: module.register_forward_hook(hook, with_kwargs=True)  # noqa: E731
    else:
        head = component.kind == "head"
        name = anatomy.out_module(component.layer) if head else anatomy.down_module(component.layer)
        width = anatomy.head_dim if head else 1
        part = slice(component.index * width, (component.index + 1) * width)

        def pre(m, args):
            a, other = args[0].clone(), new()
            a[..., part] = 0 if other is None else other[:, part].reshape(*a.shape[:-1], width)
            return (a, *args[1:])

        register = lambda _: model.get_submodule(name).register_forward_pre_hook(pre)  # noqa: E731
    before = losses(model, task, i)
    after = losses(model, task, i, [register])
    return float(task.loss(after[None], before[None]) - task.loss(before[None], before[None]))


def values(model, task, component, i, replace, seed=0):
    """The ``value`` argument of ``effect`` for one kind of replacement."""
    anatomy, kind, layer = Anatomy.of(model), component.kind, component.layer

    def of(ids):
        return said(model, anatomy, ids, kind, layer)

    if replace == "zero":
        return None
    if replace == "mean":
        every = torch.cat([of(s.ids) for e in task.examples for s in e])
        return [every.mean(0).expand(len(s.ids), -1) for s in task.examples[i]]
    if replace == "corrupted":
        return [of(s.ids) for s in task.corrupted[i]]
    order = torch.randperm(len(task), generator=torch.Generator().manual_seed(seed)).tolist()
    donor = order[(order.index(i) + 1) % len(order)]

    there = [of(s.ids) for s in task.examples[donor]]
    return [a[torch.arange(len(s.ids)).clamp(max=len(a) - 1)] for s, a in zip(task.examples[i], there, strict=True)]


def task_of(count: int = 5, preference: bool = False, shared: str = "abcdef", **options) -> Task:
    """Rows of two lengths with corrupted prompts, and a beginning that outlasts the window of the sliding families."""
    rows = tiny.pairs(count * 3)[::3] if preference else tiny.sums(count * 3)[::3]
    rows = [row | {"prompt": shared + row["prompt"]} for row in rows]
    rows = [
        row | {"corrupted_prompt": row["prompt"].translate(str.maketrans("123456789", "345678912"))} for row in rows
    ]
    return dataclasses.replace(Task.from_dataset(rows, tiny.tokenizer(), batch_size=3), **options)
