"""The catalogue of scorers, ours and one's own. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..anatomy.component import KINDS
from ..errors import GuidedError, pick
from .method import Method

_LAYER, _LAYER_HEAD, _LAYER_NEURON = ("layer",), ("layer", "head"), ("layer", "neuron")

CATALOGUE: dict[str, Method] = {
    # causal: what the loss does without a component
    "ablation": Method(
        "ablation:ablation",
        "exact effect of removing each component (slow)",
        cost="1 F for each component",
        when="the truth: for heads, or to check the top of another map (option verify)",
    ),
    "attribution": Method(
        "attribution:Attribution",
        "gradient x activation, all components in one pass",
        cost="1 F+B",
        when="the default: an estimate of ablation, all components at once",
    ),
    "integrated_gradients": Method(
        "integrated:IntegratedGradients",
        "gradient x activation along a path of inputs",
        cost="6 F+B",
        when="like attribution, where the model is so sure of its answers that gradients vanish",
    ),
    "eap": Method(
        "edges:EdgePatching",
        "the circuit of the strongest connections",
        cost="1 F+B (of pairs: 2)",
        when="pairs of prompts that differ in one thing: which heads pass it on",
        kinds=_LAYER_HEAD,
    ),
    # gradients of the weights
    "gradient": Method(
        "gradient:Gradient",
        "squared gradients of a component's weights",
        cost="1 F+B, weights too",
        when="what the first steps of training would change",
    ),
    "gradient_norm": Method(
        "weight_gradient:GradientNorm",
        "norm of the gradient of the mean loss, relative or not",
        cost="1 F+B, weights too",
        when="the same of the mean over all examples: what they share",
    ),
    "snip": Method(
        "weight_gradient:Snip",
        "weights times gradients of the mean loss",
        cost="1 F+B, weights too",
        when="what to keep when the rest is pruned",
    ),
    "fisher": Method(
        "fisher:Fisher",
        "squared gradients of single examples, without making them",
        cost="1 F+B",
        when="like gradient, example by example, in the memory of activations",
    ),
    "coherence": Method(
        "fisher:Coherence",
        "how far the examples' gradients agree",
        cost="1 F+B, weights too",
        when="where the examples ask for the same change",
    ),
    "natural_gain": Method(
        "fisher:NaturalGain",
        "loss to win per KL spent on the retain set",
        cost="1 F+B of each set, weights too",
        when="to learn and forget little; takes a retain set",
        compares=True,
    ),
    # short training
    "gates": Method(
        "gates:gates",
        "trained scales of components, with a price",
        cost="20 steps of training",
        when="a small set that carries the task together",
    ),
    "movement": Method(
        "movement:movement",
        "how far a few training steps move the weights, taken back afterwards",
        cost="4 steps of training",
        when="what training moves, step by step",
    ),
    # activations
    "activation": Method(
        "activation:Activation",
        "size of activations, or of what they write; large or small",
        cost="1 F",
        when="what is in use on a kind of text, whatever the answer",
    ),
    "frequency": Method(
        "activation:Frequency",
        "how often a neuron fires",
        cost="1 F",
        when="neurons of a language or a topic: against text without it",
        kinds=("neuron",),
    ),
    "sink": Method(
        "sinks:Sink",
        "attention spent on the first tokens",
        cost="1 F",
        when="heads that rest on the first tokens: to leave them out",
        kinds=_LAYER_HEAD,
    ),
    "massive": Method(
        "sinks:Massive", "outlying activations", cost="1 F", when="outliers: to leave them out", kinds=_LAYER_NEURON
    ),
    "block_influence": Method(
        "flow:BlockInfluence",
        "1 - cosine of a layer's input and output",
        cost="1 F",
        when="layers that change little: to freeze or drop them",
        kinds=_LAYER,
    ),
    "angular": Method(
        "flow:Angular",
        "angle between a layer's input and output",
        cost="1 F",
        when="the same, as an angle",
        kinds=_LAYER,
    ),
    "wanda": Method(
        "wanda:Wanda",
        "weights times the norms of their inputs",
        cost="1 F",
        when="what to keep when the rest is pruned, without gradients",
    ),
    # vocabulary
    "direct_logit": Method(
        "lens:DirectLogit",
        "what a component writes straight into the answer's logit",
        cost="1 F",
        when="components that write the answer themselves",
    ),
    "logit_lens": Method(
        "lens:LogitLens",
        "how much likelier a layer makes the answer",
        cost="1 F",
        when="how the answer builds up from layer to layer",
        kinds=_LAYER,
    ),
    "execution_depth": Method(
        "lens:ExecutionDepth",
        "the layer where the answer first appears",
        cost="1 F",
        when="the layer from which on the rest may be frozen",
        kinds=_LAYER,
    ),
    "sensitivity": Method(
        "sensitivity:sensitivity",
        "change of the output when a layer is disturbed",
        cost="1 F, and 1 F for each layer",
        when="layers that must not be disturbed",
        kinds=_LAYER,
    ),
    # sets of texts
    "probe": Method(
        "probe:Probe",
        "held-out accuracy of a linear probe between sets",
        cost="2 F of each set",
        when="where a property of the text can be read off",
        kinds=_LAYER_HEAD,
        compares=True,
        own_sets=True,
    ),
    "contrast": Method(
        "contrast:Contrast",
        "difference of mean activations between two sets",
        cost="1 F of each set",
        when="a style or behaviour against its opposite",
        compares=True,
    ),
    "specificity": Method(
        "contrast:Specificity",
        "how unevenly a component speaks in several sets",
        cost="1 F of each set",
        when="languages or domains against each other",
        compares=True,
    ),
    # weights alone
    "magnitude": Method(
        "magnitude:magnitude",
        "size of a component's weights",
        cost="none",
        when="a control that sees no data",
        needs_data=False,
    ),
    "low_rank": Method(
        "spectral:low_rank",
        "size of the weights after a low-rank filter",
        cost="an SVD of each matrix",
        when="a control that sees no data, less its noise",
        needs_data=False,
    ),
    "stable_rank": Method(
        "spectral:stable_rank",
        "spread of the spectrum",
        cost="an SVD of each matrix",
        when="how many directions a component uses, without data",
        needs_data=False,
        kinds=_LAYER_HEAD,
    ),
    "tail_exponent": Method(
        "spectral:tail_exponent",
        "power law of the spectrum",
        cost="an SVD of each matrix",
        when="how heavy the tail of a layer's spectrum is, without data",
        needs_data=False,
        kinds=_LAYER,
    ),
    "random": Method(
        "random:random", "seeded noise: the control", cost="none", when="the control of every claim", needs_data=False
    ),
}


def register(
    name: str,
    function: Callable[..., Any],
    help: str = "",
    *,
    needs_data: bool = True,
    kinds: tuple[str, ...] = KINDS,
    compares: bool = False,
    cost: str = "",
    when: str = "",
    own_sets: bool = False,
) -> None:
    """Add a scorer of your own, a function or a Recorder class, under a new name.

    Raises GuidedError if the name is taken.
    """
    if name in CATALOGUE:
        raise GuidedError(f"register: the name {name!r} is taken (choose another)")
    CATALOGUE[name] = Method(function, help, needs_data, tuple(kinds), compares, cost, when, own_sets)


def find(name: str) -> Method:
    """Look a method up; an unknown one is a GuidedError with the nearest name."""
    return pick(CATALOGUE, name, "method")
