"""The catalogue of scorers. Imports no torch: a scorer's module is loaded when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..anatomy.component import KINDS
from ..errors import GuidedError, pick
from .guide import GUIDE


@dataclass(frozen=True)
class Method:
    """One entry of the catalogue.

    Args:
        function: the scorer, or ``module:name`` of it among the methods. Either a function, called as ``scorer(model,
            anatomy, task, *, kinds, progress, **options)``, which returns a ScoreMap; or a ``Recorder`` class, called
            as ``scorer(anatomy, kinds, **options)``, which shares its passes with others.
        help: one line for ``--help`` and reports.
        needs_data: False if the scores do not depend on the task; such a method has no two-sided form.
        kinds: what it can score.
        against: it compares the task with other sets, its option ``against``, and has no two-sided form beside it.
        cost: of the default options, in passes over the task (see ``guide.py``).
        when: what it is for, in a few words.
        own_sets: a task of preferences is both sets by itself, so that ``against`` may be left out.
    """

    function: str | Callable[..., Any]
    help: str
    needs_data: bool = True
    kinds: tuple[str, ...] = KINDS
    against: bool = False
    cost: str = ""
    when: str = ""
    own_sets: bool = False

    def load(self) -> Callable[..., Any]:
        if callable(self.function):
            return self.function
        module, name = self.function.split(":")
        return getattr(importlib.import_module(f"{__package__}.methods.{module}"), name)


_LAYER, _LAYER_HEAD, _LAYER_NEURON = ("layer",), ("layer", "head"), ("layer", "neuron")

_METHODS = {
    # causal: what the loss does without a component
    "ablation": Method("ablation:ablation", "exact effect of removing each component (slow)"),
    "attribution": Method("attribution:Attribution", "gradient x activation, all components in one pass"),
    "integrated_gradients": Method("integrated:IntegratedGradients", "gradient x activation along a path of inputs"),
    "eap": Method("edges:EdgePatching", "the circuit of the strongest connections", kinds=_LAYER_HEAD),
    # gradients of the weights
    "gradient": Method("gradient:Gradient", "squared gradients of a component's weights"),
    "gradient_norm": Method("weight_gradient:GradientNorm", "norm of the gradient of the mean loss, relative or not"),
    "snip": Method("weight_gradient:Snip", "weights times gradients of the mean loss"),
    "fisher": Method("fisher:Fisher", "squared gradients of single examples, without making them"),
    "coherence": Method("fisher:Coherence", "how far the examples' gradients agree"),
    "natural_gain": Method("fisher:NaturalGain", "loss to win per KL spent on the retain set", against=True),
    # short training
    "gates": Method("gates:gates", "trained scales of components, with a price"),
    "movement": Method("movement:movement", "how far a few training steps move the weights, taken back afterwards"),
    # activations
    "activation": Method("activation:Activation", "size of activations, or of what they write; large or small"),
    "frequency": Method("activation:Frequency", "how often a neuron fires", kinds=("neuron",)),
    "sink": Method("sinks:Sink", "attention spent on the first tokens", kinds=_LAYER_HEAD),
    "massive": Method("sinks:Massive", "outlying activations", kinds=_LAYER_NEURON),
    "block_influence": Method("flow:BlockInfluence", "1 - cosine of a layer's input and output", kinds=_LAYER),
    "angular": Method("flow:Angular", "angle between a layer's input and output", kinds=_LAYER),
    "wanda": Method("wanda:Wanda", "weights times the norms of their inputs"),
    # vocabulary
    "direct_logit": Method("lens:DirectLogit", "what a component writes straight into the answer's logit"),
    "logit_lens": Method("lens:LogitLens", "how much likelier a layer makes the answer", kinds=_LAYER),
    "execution_depth": Method("lens:ExecutionDepth", "the layer where the answer first appears", kinds=_LAYER),
    "sensitivity": Method("sensitivity:sensitivity", "change of the output when a layer is disturbed", kinds=_LAYER),
    # sets of texts
    "probe": Method(
        "probe:Probe",
        "held-out accuracy of a linear probe between sets",
        kinds=_LAYER_HEAD,
        against=True,
        own_sets=True,
    ),
    "contrast": Method("contrast:Contrast", "difference of mean activations between two sets", against=True),
    "specificity": Method("contrast:Specificity", "how unevenly a component speaks in several sets", against=True),
    # weights alone
    "magnitude": Method("magnitude:magnitude", "size of a component's weights", needs_data=False),
    "low_rank": Method("spectral:low_rank", "size of the weights after a low-rank filter", needs_data=False),
    "stable_rank": Method("spectral:stable_rank", "spread of the spectrum", needs_data=False, kinds=_LAYER_HEAD),
    "tail_exponent": Method("spectral:tail_exponent", "power law of the spectrum", needs_data=False, kinds=_LAYER),
    "random": Method("random:random", "seeded noise: the control", needs_data=False),
}

CATALOGUE: dict[str, Method] = {
    name: replace(method, cost=GUIDE[name][0], when=GUIDE[name][1]) for name, method in _METHODS.items()
}


def register(
    name: str,
    function: Callable[..., Any],
    help: str = "",
    *,
    needs_data: bool = True,
    kinds: tuple[str, ...] = KINDS,
    against: bool = False,
    cost: str = "",
    when: str = "",
    own_sets: bool = False,
) -> None:
    """Add a scorer of your own, a function or a Recorder class, under a new name.

    Raises GuidedError if the name is taken.
    """
    if name in CATALOGUE:
        raise GuidedError(f"register: the name {name!r} is taken (choose another)")
    CATALOGUE[name] = Method(function, help, needs_data, tuple(kinds), against, cost, when, own_sets)


def find(name: str) -> Method:
    """Look a method up; an unknown one is a GuidedError with the nearest name."""
    return pick(CATALOGUE, name, "method")
