"""``SelectOptions``: what a map is spent on, with the one set of defaults there is. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SelectOptions:
    """What ``select`` is asked beside the map, also by GuidedCallback, recipes and the command line; see ``select``."""

    budget: str | float | int = "10%"
    kinds: tuple[str, ...] = ("neuron",)
    strategy: str = "top"
    seed: int = 0
    first_layer: int = 0

    def arguments(self) -> dict[str, Any]:
        """What to call ``select`` with."""
        return asdict(self)
