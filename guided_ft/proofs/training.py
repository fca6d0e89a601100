"""Proof of training: a few steps of a slice are those of masked full fine-tuning; merging keeps what was learned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..anatomy import Component, base_model, stored_weight
from ..plan.plan import Plan
from ..selection.selection import Selection
from .bench import Bench, Unproved, alike
from .replica import tokens

STEPS, RATE, MOMENTUM = 4, 0.02, 0.9


def training(bench: Bench) -> str:
    """Four steps of momentum on heads and neurons, and on all projections of the last layer."""
    selection = _selection(bench)
    whole = copy.deepcopy(bench.model)
    masks = _masks(whole, selection)
    before = {name: p.detach().clone() for name, p in whole.named_parameters()}
    whole.requires_grad_(False)
    for weight in masks:
        weight.requires_grad_(True)
    train(whole, {weight: mask.mul for weight, mask in masks.items()})
    part: Any = Plan(selection).attach(copy.deepcopy(bench.model))
    train(part)
    for name, p in base_model(part).named_parameters():
        kept = before.get(name.replace(".base_layer.", "."))
        if kept is not None and not torch.equal(p, kept):
            raise Unproved(f"{name} is frozen, but it moved")
    part.merge_adapter(safe_merge=True)
    moved = 0.0
    for module in {p.module for p in selection.slices()}:
        change = {m: stored_weight(m, module).detach() for m in (whole, base_model(part))}
        name = next(n for n, p in whole.named_parameters() if p is stored_weight(whole, module))
        one, other = (w - before[name] for w in change.values())
        size, far = float(one.abs().max()), float((other - one).abs().max())
        # Weights round what is added to them; a delta does not.
        if not far <= 1e-3 * size + 1e-6:
            raise Unproved(f"what {bench.anatomy.relative(module)} learned is off by {far:.1e}, of {size:.1e}")
        moved = max(moved, size)
    if not moved > 1e-4:
        raise Unproved("nothing was learned")
    return f"{STEPS} steps, {selection.num_parameters:,} parameters, moved by up to {moved:.2g}"


def merging(bench: Bench) -> str:
    """Merged, the model computes what the adapter does; unmerged, the base is as it was, bit for bit."""
    torch_state = torch.get_rng_state()
    model = copy.deepcopy(bench.model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    part: Any = Plan(_selection(bench)).attach(model).eval()
    born = Bench(part, bench.anatomy).logits()
    if not torch.equal(born, bench.logits()):
        raise Unproved("at birth the logits are not those of the base")
    torch.manual_seed(0)
    for name, p in part.named_parameters():
        if "slice_delta" in name:
            p.data.normal_(0, 0.05)
    torch.set_rng_state(torch_state)
    adapted = Bench(part, bench.anatomy).logits()
    part.merge_adapter(safe_merge=True)
    far = alike(Bench(part, bench.anatomy).logits(), adapted, "what the merged model says")
    if torch.equal(adapted, born):
        raise Unproved("the adapter has no effect")
    part.unmerge_adapter()
    for name, p in base_model(part).named_parameters():
        kept = before.get(name.replace(".base_layer.", "."))
        if kept is not None and not torch.equal(p, kept):
            raise Unproved(f"{name} is not unmerged bit for bit")
    return f"off by {far:.1e} of the largest logit; unmerged bit for bit"


def _selection(bench: Bench) -> Selection:
    a = bench.anatomy
    lowest = a.layers_of("head")[0]
    heads = [Component("head", lowest, i) for i in (*range(a.heads_per_group), a.num_heads - 1)]
    return Selection(
        a, (*heads, *bench.some("neuron", a.layers_of("neuron")[0], 4), Component("layer", a.num_layers - 1))
    )


def _masks(model: nn.Module, selection: Selection) -> dict[nn.Parameter, torch.Tensor]:
    """1 where a selection trains, 0 elsewhere, by stored weight."""
    masks: dict[nn.Parameter, torch.Tensor] = {}
    for part in selection.slices():
        weight = stored_weight(model, part.module)
        mask = masks.setdefault(weight, torch.zeros_like(weight))
        (mask if part.expert is None else mask[part.expert]).index_fill_(part.axis, torch.tensor(part.index), 1)
    return masks


Edit = Callable[[torch.Tensor], torch.Tensor]


def train(model: nn.Module, edits: Mapping[nn.Parameter, Edit] | None = None) -> None:
    """Some steps of momentum on what requires gradients; ``edits`` say what of a weight's gradient is kept."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM)
    for step in range(STEPS):
        ids = tokens(4, 9, seed=10 + step)
        optimizer.zero_grad()
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        for weight, edit in (edits or {}).items():
            assert weight.grad is not None
            weight.grad = edit(weight.grad)
        optimizer.step()
