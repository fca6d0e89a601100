"""``Work``: where the numbers are that a way of training trains, and so what a step of it costs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...anatomy import Anatomy

Place = tuple[int, str]
"""A layer and the name of a projection in it."""

ROUTER = "router"
"""Stands for what sends tokens to experts, where there are any."""


@dataclass(frozen=True)
class Work:
    """Where the trained numbers are: by layer and by projection, relative to the layer.

    Args:
        in_place: trained weights of the base itself.
        added: numbers in matrices that are computed beside the base's, one after the other: a slice is one, LoRA two.
        fixed: numbers in a matrix before those of ``added`` that is never trained: the ``A`` of chosen directions.
        twice: those of ``added`` beside which as many frozen numbers are computed once more (neurons of experts).
        other: layers with trained numbers outside the projections (norms, biases).
        embedding, head: whether the token embedding and the output head are trained.
    """

    in_place: Mapping[Place, int] = field(default_factory=dict)
    added: Mapping[Place, tuple[int, ...]] = field(default_factory=dict)
    fixed: Mapping[Place, int] = field(default_factory=dict)
    twice: frozenset[Place] = frozenset()
    other: frozenset[int] = frozenset()
    embedding: bool = False
    head: bool = False

    @property
    def first_layer(self) -> int | None:
        """The first layer with anything trained; None if there is none. 0 with a trained embedding."""
        layers = {layer for layer, _ in (*self.in_place, *self.added)} | self.other
        return 0 if self.embedding else min(layers, default=None)


def places(anatomy: Anatomy, layers: Iterable[int]) -> dict[str, Place]:
    """The layer and the name in it of every projection of some layers, by its full name."""
    return {anatomy.module(i, name): (i, name) for i in sorted(set(layers)) for name in anatomy.names_in(i)}
