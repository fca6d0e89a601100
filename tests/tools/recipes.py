"""Recipes as tests write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from guided_ft.errors import GuidedError
from guided_ft.recipe import strict_yaml
from guided_ft.recipe.recipe import Recipe, keys

MINIMAL: dict[str, Any] = {"data": {"name": "chain_sum"}}


def errors_of(folder: Path, text: str | bytes, *overrides: str) -> str:
    """What ``Recipe.load`` says about a file; fails if it says nothing."""
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(GuidedError) as caught:
        Recipe.load(path, overrides)
    return str(caught.value)


plain_text = st.text(st.characters(codec="utf-8"), max_size=20).filter(lambda t: not strict_yaml.CONTROL.search(t))

scalars = st.none() | st.booleans() | st.integers(-(10**29), 10**29) | st.floats(allow_nan=False) | plain_text

tricky = st.sampled_from(["5e-3", "1e3", "no", "~", "010", "1:30", "<<", "=", "", " ", "a: b", "# a", "&a", "- a", "'"])

NUMBER = "recipe.yaml: train.steps: expected an integer from 1 to 1000000000, got {} (write a number such as 100)"

words = st.sampled_from([path.rpartition(".")[2] for path in keys()] + ["train", "data", "select", "localize", "x"])
