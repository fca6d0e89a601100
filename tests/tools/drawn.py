"""Maps of directions drawn at random, and what is chosen from them."""

from __future__ import annotations

import numpy as np

from guided_ft.anatomy import Anatomy
from guided_ft.selection.directions import DirectionMap
from guided_ft.selection.selection import Selection
from guided_ft.selection.spend import select_directions
from guided_ft.selection.subspace import Subspace


def drawn(anatomy: Anatomy, count: int = 4, seed: int = 0, names: tuple[str, ...] = ()) -> DirectionMap:
    """The layers of the model's layers 1 and 0, or those of ``names``."""
    rng = np.random.default_rng(seed)
    bases, scores, rows = {}, {}, {}
    for name in names or [anatomy.module(i, rel) for i in (1, 0) for rel in anatomy.shapes]:
        inputs = anatomy.outputs_inputs(anatomy.relative(name))[1]
        bases[name] = np.linalg.qr(rng.normal(size=(inputs, count)))[0].T.astype(np.float32)
        scores[name] = np.sort(rng.random(count).astype(np.float32))[::-1].copy()
        shares = rng.random(anatomy.outputs(name))
        rows[name] = (shares / shares.sum() * scores[name].sum()).astype(np.float32)
    return DirectionMap(anatomy, bases, scores, rows, {"method": "directions", "retain": {"name": "self"}})


def subspace(anatomy: Anatomy, within: str, budget: str | int = "10%", seed: int = 3) -> Subspace:
    """Of all the layers that hold some components, with ranks that differ by one at most."""
    return select_directions(drawn(anatomy, seed=seed), budget, "even", within=Selection.parse(within, anatomy))
