"""Proofs about a model of which nothing is known but its linear layers: what directions need."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ..anatomy import stored_weight
from ..plan.plan import Plan
from ..scorers.directions.statistics import mean_gradients
from ..selection.subspace import Subspace
from .bench import Bench, Unproved, alike
from .replica import VOCAB, tokens
from .training import STEPS, Edit, train

RANK = 3


def causal(bench: Bench) -> str:
    """Another last token changes no logits but its own."""
    ids = tokens(4, 9)
    other = ids.clone()
    other[:, -1] = (ids[:, -1] + 1) % VOCAB
    with torch.no_grad():
        one, two = (bench.model(input_ids=i, use_cache=False).logits.float() for i in (ids, other))
    far = alike(two[:, :-1], one[:, :-1], "what is said before a token that changed")
    if torch.equal(one[:, -1], two[:, -1]):
        raise Unproved("a token changes nothing")
    return f"off by {far:.1e} of the largest logit"


def gradients(bench: Bench) -> str:
    """Of the mean loss, as autograd finds them, and as localizing adds them up from what modules are given."""
    a, task = bench.anatomy, bench.task
    names = [a.module(layer, name) for layer in range(a.num_layers) for name in a.names_in(layer)]
    found = mean_gradients(bench.model, a, task, names)
    bench.model.zero_grad()
    sum(task.loss(task.quantity(bench.model, batch)).sum() for batch in task.batches()).backward()  # type: ignore[union-attr]
    try:
        for name in names:
            true = stored_weight(bench.base, name).grad
            if name not in found or true is None:
                raise Unproved(f"{name} is never called")
            alike(found[name] * len(task), true, f"the gradient of {name}", 1e-4)
    finally:
        bench.model.zero_grad()
    return f"{len(names)} linear layers, {len(a.shapes)} in a layer at most"


def subspace(bench: Bench) -> str:
    """Four steps along directions in all linear layers; the base beside it; merged."""
    chosen = _directions(bench)
    before = {name: p.detach().clone() for name, p in bench.base.named_parameters()}
    whole = copy.deepcopy(bench.model)
    part: Any = Plan(chosen, mode="subspace").attach(copy.deepcopy(bench.model)).eval()
    said = Bench(part, bench.anatomy)
    if not torch.equal(said.logits(), bench.logits()):
        raise Unproved("at birth the logits are not those of the base")
    whole.requires_grad_(False)
    along = {stored_weight(whole, name): _projection(torch.from_numpy(b)) for name, b in chosen.bases.items()}
    for weight in along:
        weight.requires_grad_(True)
    train(whole, along)
    train(part)
    for name, p in part.get_base_model().named_parameters():
        kept = before.get(name.replace(".base_layer.", "."))
        if kept is not None and not torch.equal(p, kept):
            raise Unproved(f"{name} is frozen, but it moved")
    with part.disable_adapter():
        if not torch.equal(said.logits(), bench.logits()):
            raise Unproved("with the adapter disabled the logits are not those of the base")
    adapted = said.logits()
    alike(adapted, Bench(whole, bench.anatomy).logits(), "what was learned", 1e-3)
    if torch.equal(adapted, bench.logits()):
        raise Unproved("nothing was learned")
    merged = part.merge_and_unload(safe_merge=True)
    far = alike(Bench(merged, bench.anatomy).logits(), adapted, "what the merged model says", 1e-4)
    return f"{STEPS} steps, {chosen.num_parameters:,} parameters; merged off by {far:.1e} of the largest logit"


def _directions(bench: Bench) -> Subspace:
    """Some random ones in every linear layer."""
    a = bench.anatomy
    draw = torch.Generator().manual_seed(3)
    bases = {}
    for layer in range(a.num_layers):
        for name in a.names_in(layer):
            basis = torch.randn(a.outputs_inputs(name)[1], RANK, generator=draw)
            bases[a.module(layer, name)] = torch.linalg.qr(basis)[0].T.contiguous().numpy()
    return Subspace(a, bases)


def _projection(basis: torch.Tensor) -> Edit:
    """What of a gradient ``[out, in]`` lies along directions ``[r, in]``."""
    return lambda gradient: gradient @ basis.T @ basis
