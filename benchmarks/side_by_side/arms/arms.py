"""The arms: every way of training that is compared, by name, in the order of tables and legends. Imports no torch."""

from __future__ import annotations

from .arm import Arm, Rates
from .parts import (
    AsideLocated,
    Directed,
    LateDirected,
    Located,
    MovingDirected,
    OutwardDirected,
    RedrawnDirected,
    Sums,
    TopLayers,
)
from .ways import Adapter, Mixed, Started, Untrained, Whole

LATE = 0.4
"""The share of the layers that late arms leave alone, from the bottom."""

GREY = "#a3abb5"

_NONE: Rates = {"testbed": (0.0,), "smollm2": (0.0,)}
_WHOLE: Rates = {
    "testbed": (1e-4, 3e-4, 1e-3, 3e-3),
    "smollm2": (1e-5, 3e-5, 1e-4, 3e-4),
    # Fronts want more rates where little is forgotten: of full fine-tuning as of directions and LoRA.
    "smollm2-fronts": (3e-5, 5e-5, 1e-4, 2e-4),
}
_BLOCKS: Rates = {"testbed": (3e-4, 1e-3, 3e-3, 1e-2), "smollm2": (3e-5, 1e-4, 3e-4, 1e-3)}
_PARTS: Rates = {"testbed": (1e-3, 3e-3, 1e-2, 3e-2), "smollm2": (1e-3, 3e-3, 1e-2, 3e-2)}
_ALONG: Rates = {
    "testbed": (3e-3, 1e-2, 3e-2, 1e-1),
    "smollm2": (3e-4, 1e-3, 3e-3, 1e-2),
    "smollm2-fronts": (1e-3, 2e-3, 3e-3, 5e-4),
}
_ANYWHERE: Rates = _ALONG | {"smollm2-fronts": (1e-4, 3e-4, 1e-3, 5e-5)}
"""Of directions that retained text is full of, which stand lower rates."""
_LORA: Rates = {
    "testbed": (1e-3, 3e-3, 1e-2, 3e-2),
    "smollm2": (3e-4, 1e-3, 3e-3, 1e-2),
    # What forgets little lies at rates that no sweep by score alone would look at.
    "smollm2-fronts": (1e-4, 2e-4, 3e-4, 5e-5),
}
_VECTOR: Rates = {"testbed": (3e-3, 1e-2, 3e-2, 1e-1), "smollm2": (3e-3, 1e-2, 3e-2, 1e-1)}


def _lora(label: str, start: str, help: str) -> Arm:
    return Arm(label, Adapter("lora", options=(("init_lora_weights", start),)), _LORA, help)


WHOLE = {
    "base": Arm("frozen base", Untrained(), _NONE, "no training", "#8a8f98", budgeted=False),
    "full": Arm("full fine-tuning", Whole(), _WHOLE, "full fine-tuning", "#111111", budgeted=False),
}

ADAPTERS = {
    "lora": Arm(
        "LoRA, all linear layers",
        Adapter("lora"),
        _LORA,
        "LoRA of the rank nearest to the budget, alpha twice that",
        "#d95f02",
    ),
    "lora:qv": Arm("LoRA, q and v", Adapter("lora", ("q_proj", "v_proj")), _LORA, "LoRA on q and v"),
    "rslora": Arm("rsLoRA", Adapter("lora", options=(("use_rslora", True),)), _LORA, "rank-stabilized LoRA", "#e6a03c"),
    "dora": Arm("DoRA", Adapter("lora", options=(("use_dora", True),)), _LORA, "DoRA", "#a6561a"),
    "lora:pissa": _lora("PiSSA", "pissa_niter_16", "LoRA from the largest singular vectors of the weights"),
    "lora:olora": _lora("OLoRA", "olora", "LoRA from the orthonormal factors of the weights"),
    "lora:mica": _lora("MiCA", "mica", "LoRA into the smallest singular vectors of the weights"),
    "eva": Arm("EVA", Started("eva"), _LORA, "LoRA from what varies most at the inputs on the task", "#b15928"),
    "corda": Arm("CorDA", Started("corda"), _LORA, "LoRA from what retained text uses least of the weights", "#fb9a99"),
    "oft": Arm("OFT", Adapter("oft"), _LORA, "rotations of the inputs, in blocks", "#cab2d6"),
    "shira": Arm("SHiRA", Adapter("shira"), _PARTS, "SHiRA: random single weights", "#7b3294"),
    "ia3": Arm("IA3", Adapter("ia3"), _VECTOR, "IA3: scales of k, v and the MLP", "#c2a5cf", budgeted=False),
}

OTHERS = {
    "full:mixed": Arm(
        "full fine-tuning, mixed",
        Mixed(),
        _WHOLE,
        "full fine-tuning, a tenth of the rows sampled from the base model",
        "#9467bd",
        budgeted=False,
    ),
    "lisa": Arm("LISA", Whole("lisa"), _WHOLE, "LISA: two random layers at a time", "#c51b7d", budgeted=False),
    "hft": Arm("HFT", Whole("hft"), _WHOLE, "HFT: a random half of the weights", "#de77ae", budgeted=False),
    "badam": Arm("BAdam", Whole("badam"), _WHOLE, "BAdam: one layer at a time", "#8e0152", budgeted=False),
    "top-layers": Arm("top layers", TopLayers(2), _WHOLE, "the last two layers", "#5e3c99", budgeted=False),
}

DIRECTIONS = {
    "directions": Arm(
        "directions",
        Directed(),
        _ALONG,
        "directions that the task uses and retained text does not, ranks by score",
        "#008080",
    ),
    "directions:even": Arm("directions, one rank", Directed("even"), _ALONG, "as directions, the same rank everywhere"),
    "directions:one-sided": Arm(
        "directions, one-sided", Directed(retain=None), _ANYWHERE, "directions that the task uses", "#66c2a5"
    ),
    "directions:shuffled": Arm(
        "directions of another layer", Directed("shuffled"), _ANYWHERE, "directions of another layer", drawn=True
    ),
    "directions:random": Arm(
        "random directions",
        Directed("random"),
        _ANYWHERE,
        "random directions, of the same ranks",
        "#8c7b6b",
        drawn=True,
    ),
    "directions:random-even": Arm(
        "random directions, one rank",
        Directed("random_even"),
        _ANYWHERE,
        "random directions, of one rank",
        "#a3abb5",
        drawn=True,
    ),
    "directions:late": Arm(
        "directions, late layers", LateDirected(), _ALONG, "as directions, of the upper 60 % of the layers", "#35a79c"
    ),
    "directions:moving": Arm(
        "directions, moving",
        MovingDirected(),
        _ALONG,
        "as directions, which move at a hundredth of the rate",
        "#1f5fa8",
    ),
    "directions:redrawn": Arm(
        "directions, located twice", RedrawnDirected(), _ALONG, "as directions, located anew halfway", "#5aae61"
    ),
    "directions:outward": Arm(
        "directions, outputs too",
        OutwardDirected(),
        _ALONG,
        "as directions, off the outputs that retained text reads most",
        "#9970ab",
    ),
}

LOCATED = {
    "guided": Arm(
        "guided (default)",
        Sums(),
        _PARTS,
        "the choice of the recipe sums: its method, examples and kinds, task over retain, upper 60 % of the layers",
        "#1b6ca8",
        placed="random:default",
    ),
    "guided:auto": Arm(
        "guided (default), a recipe's rate",
        Sums(),
        None,
        "as the default, at the rate that a recipe takes by itself",
        "#6baed6",
        placed="random:auto",
    ),
    "guided:heads": Arm(
        "guided (default), heads too",
        Sums(kinds=("head", "neuron")),
        _PARTS,
        "as the default, heads too",
        "#e6ab02",
        placed="random:late",
    ),
    "guided:attribution": Arm(
        "guided, attribution", Located("attribution"), _PARTS, "attribution, task over retain, all layers", "#2c7fb8"
    ),
    "guided:attribution-late": Arm(
        "guided, attribution, late layers",
        Located("attribution", first=LATE),
        _PARTS,
        "attribution, task over retain, upper 60 %, located on more examples",
        "#253494",
        placed="random:late",
    ),
    "guided:one-sided": Arm(
        "guided, one-sided", Located(retain=None), _PARTS, "squared gradients of the task alone", "#66c2a5"
    ),
    "guided:two-sided": Arm(
        "guided, two-sided", Located(), _PARTS, "squared gradients, task over retain", "#1a9850", placed="shuffled"
    ),
    "guided:aside": Arm(
        "guided, off retained gradients",
        AsideLocated(),
        _PARTS,
        "as two-sided, each step projected off gradients of retained text",
        "#00441b",
        placed="shuffled",
    ),
    "guided:fisher": Arm(
        "guided, Fisher",
        Located("fisher"),
        _PARTS,
        "squared gradients of single examples, task over retain",
        "#b8b800",
    ),
    "guided:natural-gain": Arm(
        "guided, natural gain",
        Located("natural_gain"),
        _PARTS,
        "loss to win per KL on the retain set",
        "#a6d854",
        placed="shuffled:natural-gain",
    ),
    "guided:coherence": Arm(
        "guided, coherence",
        Located("coherence", None),
        _PARTS,
        "where the examples' gradients agree",
        "#00b5d8",
    ),
    "guided:late": Arm(
        "guided, late layers",
        Located(first=LATE),
        _PARTS,
        "squared gradients, task over retain, upper 60 % of the layers",
        "#80b1d3",
        placed="random:late",
    ),
    "guided:rank": Arm(
        "guided, low rank",
        Located(kinds=("neuron",), within=20.0),
        _PARTS,
        "two-sided, a fifth of the model as products of low rank",
        "#e7298a",
        placed="random:rank",
    ),
    "guided:rank-heads": Arm(
        "guided, low rank, heads too",
        Located(within=20.0),
        _PARTS,
        "two-sided, a fifth of the model, heads too, at low rank",
        "#e41a1c",
        placed="random:rank-heads",
    ),
    "guided:freeze": Arm(
        "guided freeze",
        Located(mode="freeze", budget="10%"),
        _BLOCKS,
        "whole attentions and MLPs, 10 %",
        "#5e4fa2",
        budgeted=False,
    ),
    "guided:lora": Arm(
        "guided LoRA", Located(mode="lora"), _LORA, "LoRA on the modules that hold the located parts", "#8da0cb"
    ),
    "guided:lora-late": Arm(
        "guided LoRA, late layers",
        Sums(mode="lora"),
        _LORA,
        "LoRA on the modules that hold the default's choice",
        "#5571b5",
    ),
}


def _control(label: str, way: Located, help: str, colour: str = "", *, own_rate: bool = False) -> Arm:
    drawn = way.strategy in ("random", "shuffled")
    return Arm(label, way, None if own_rate else _PARTS, help, colour, drawn=drawn, control=True)


CONTROL = {
    "random": _control("random", Located(strategy="random"), "slices drawn at random", "#7f7f7f"),
    "random:default": _control(
        "random, placed as the default", Sums(strategy="random"), "random, of what the default may choose"
    ),
    "random:auto": _control(
        "random, placed as the default, a recipe's rate",
        Sums(strategy="random"),
        "random, of what the default may choose, at the rate that a recipe takes by itself",
        own_rate=True,
    ),
    "random:late": _control(
        "random, late layers", Located(strategy="random", first=LATE), "random, upper 60 % of the layers"
    ),
    "random:rank": _control(
        "random, low rank",
        Located(strategy="random", kinds=("neuron",), within=20.0),
        "a random fifth of the model as products of low rank",
    ),
    "random:rank-heads": _control(
        "random, low rank, heads too",
        Located(strategy="random", within=20.0),
        "a random fifth of the model, heads too, as products of low rank",
    ),
    "bottom": _control("lowest scores", Located(strategy="bottom"), "the lowest scores of two-sided", GREY),
    "magnitude": _control("magnitude", Located("magnitude", None), "the largest weights", GREY),
    "shuffled": _control(
        "shuffled in its layers", Located(strategy="shuffled"), "as many per layer as two-sided, others", GREY
    ),
    "shuffled:natural-gain": _control(
        "natural gain, shuffled in its layers",
        Located("natural_gain", strategy="shuffled"),
        "as many per layer as natural gain, others",
    ),
    "wrong-task": _control("located for a wrong task", Located(other_task=True), "two-sided, of another task", GREY),
}

ARMS: dict[str, Arm] = WHOLE | ADAPTERS | OTHERS | DIRECTIONS | LOCATED | CONTROL
