"""Models to estimate, and estimates of them."""

from __future__ import annotations

import families
from transformers import AutoConfig

KEYS = ("full", "lora", "lora_same", "slice", "slice_top", "freeze", "subspace")


def config_of(name: str, layers: int = 4) -> AutoConfig:
    return families.make(name, layers=layers).config
