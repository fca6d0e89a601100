"""``proof_of``: all proofs of one family, on a tiny random copy of a model's config."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..anatomy import (
    PROVED_APART,
    Anatomy,
    Finding,
    Proof,
    base_model,
    candidates,
    name_of,
    on_trial,
    own_parameters,
    remember,
)
from ..errors import GuidedError
from .bench import Bench, Unproved
from .engine import engine, labelled
from .linear import causal, gradients, subspace
from .replica import replica, replica_of_config
from .rows import rows
from .silence import ablation
from .stream import logits, reads, writes
from .training import merging, training

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LAWS: dict[str, tuple[str, Callable[[Bench], str]]] = {
    "rows": ("back-propagating from one head or neuron touches exactly its rows", rows),
    "ablation": ("exact ablation is one whole pass with zeroed weights", ablation),
    "engine": ("logits at labels only and the prefix cache change neither loss nor gradients", engine),
    "training": ("a slice trains as masked full fine-tuning does, and nothing else moves", training),
    "merging": ("merged it computes the same, unmerged it is as before", merging),
    "writes": (PROVED_APART["writes"], writes),
    "reads": (PROVED_APART["reads"], reads),
    "logits": (PROVED_APART["logits"], logits),
}

LAWS_OF_LINEAR: dict[str, tuple[str, Callable[[Bench], str]]] = {
    "causal": ("what is said of a token depends on none after it", causal),
    "linear": ("the gradient of each linear layer is what enters it times what comes back", gradients),
    "engine": ("logits at labels only change neither loss nor gradients", labelled),
    "training": ("directions train as projected full fine-tuning does, and nothing else moves; they merge", subspace),
}
"""Of a model of which nothing but linear layers is known."""


def proof_of(model: nn.Module | PreTrainedConfig) -> Proof:
    """All findings about a model's family: ``prove`` of the room."""
    start = time.perf_counter()
    base: PreTrainedModel | None = None
    if isinstance(model, nn.Module):
        base = base_model(model)
        config = base.config
    else:
        config = model
    proofs = []
    with _quiet():
        tiny = replica_of_config(config) if base is None else replica(base)
        for family in candidates(tiny):
            with on_trial(tiny.config, family):
                bench = Bench(tiny, Anatomy.of(tiny))
                laws = LAWS_OF_LINEAR if family.linear else LAWS
                found = (_finding(name, says, law, bench) for name, (says, law) in laws.items())
                findings = (_kinds_of_layers(base, bench), *found)
            proofs.append(Proof(name_of(tiny.config), family.layout, findings, time.perf_counter() - start))
            if proofs[-1]:
                break
    proof = proofs[-1] if proofs[-1] else proofs[0]
    for each in (config, tiny.config):
        remember(each, proof)
    return proof


def _kinds_of_layers(base: nn.Module | None, bench: Bench) -> Finding:
    """Whether the tiny copy has a layer of every kind that the model has."""

    def kinds(model: nn.Module) -> set[frozenset[str]]:
        layers: Any = model.get_submodule(bench.anatomy.prefix)
        return {frozenset(own_parameters(layer)) for layer in layers}

    tiny = kinds(bench.base)
    missing = kinds(base) - tiny if base is not None else set()
    says = "the tiny copy has a layer of every kind"
    if missing:
        return Finding("kinds", says, False, f"{len(missing)} of its kinds are missing")
    a = bench.anatomy
    parts = [(kind, len(a.layers_of(kind))) for kind in a.family.kinds[1:]]
    where = [f"{kind}s in {count} of {a.num_layers} layers" for kind, count in parts if count < a.num_layers]
    return Finding("kinds", says, True, ", ".join([f"{len(tiny)} in all", *where]))


def _finding(name: str, says: str, law: Callable[[Bench], str], bench: Bench) -> Finding:
    try:
        return Finding(name, says, True, law(bench))
    except (Unproved, GuidedError) as error:
        return Finding(name, says, False, str(error))
    except Exception as error:
        # Whatever a model of anyone's raises: it is a finding, not the end of the proof.
        words = " ".join(str(error).split())[:200]
        return Finding(name, says, False, f"{type(error).__name__}: {words}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Run on one thread, since small matrices only wait for others, without warnings, and put the random state back."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
