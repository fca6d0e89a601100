"""Random score maps of one tiny model, and strategies that draw them and questions about them."""

from __future__ import annotations

import families
import numpy as np
from hypothesis import strategies as st

from guided_ft.anatomy import KINDS, Anatomy
from guided_ft.errors import GuidedError
from guided_ft.selection.budget import select
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.selection.selection import Selection

ANATOMY = Anatomy.of(families.make("llama"))
TOTAL = ANATOMY.num_parameters


def score_map(seed: int, levels: int) -> ScoreMap:
    """A random map of whole numbers: with few levels nearly everything ties."""
    rng = np.random.default_rng(seed)
    sizes = {kind: ANATOMY.size(kind) for kind in KINDS}
    shapes = {
        kind: (ANATOMY.num_layers, size) if kind != "layer" else ANATOMY.num_layers for kind, size in sizes.items()
    }
    return ScoreMap(ANATOMY, **{kind: rng.integers(0, levels, shape) - levels // 2 for kind, shape in shapes.items()})


maps = st.builds(score_map, st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 5, 1000]))
counts = st.integers(1, TOTAL)
kind_sets = st.lists(st.sampled_from(KINDS), min_size=1, max_size=3, unique=True)


def bought(scores: ScoreMap, budget, *args, **options) -> Selection:
    """``select``, with an empty selection where the budget buys nothing."""
    try:
        return select(scores, budget, *args, **options)
    except GuidedError as error:
        if "buys nothing" not in str(error):
            raise
        return Selection(ANATOMY, ())
