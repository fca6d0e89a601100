"""What a training step costs in multiplications, from sizes alone. Imports no torch.

A matrix of ``n`` weights takes ``2 n`` floating-point operations a token forward, ``2 n`` for the gradient of its
input and ``2 n`` for its own gradient. Which of the three are done depends on what is trained and where the lowest of
it lies: back-propagation stops there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..anatomy import Anatomy
from ..plan.modes.work import ROUTER, Work


@dataclass(frozen=True)
class Batch:
    """The sizes of one step.

    Args:
        rows, length: examples in the batch and tokens in each.
        labelled: share of the tokens that have a label; logits are computed for these only.
    """

    rows: int = 8
    length: int = 128
    labelled: float = 1.0

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def labels(self) -> int:
        """Tokens with a label, at least one."""
        return max(1, round(self.labelled * self.tokens))


def step_flops(
    anatomy: Anatomy,
    head: int,
    work: Work,
    batch: Batch,
    *,
    active: int = 0,
    cached: bool = False,
    checkpointing: bool = False,
) -> int:
    """Floating-point operations of one training step: forward and backward, without the optimizer.

    Attention scores count in full, as if without causal mask or window. Norms, activation functions and look-ups are
    left out. Experts are taken to get equal shares of the tokens.

    Args:
        head: weights of the output head.
        active: experts that each token is sent to; 0: all.
        cached: the hidden states that enter the first trained layer are at hand (a prefix cache).
        checkpointing: activations are computed a second time in the backward pass.
    """

    def used(name: str, numbers: int) -> int:
        """How many of a projection's numbers a token meets on average."""
        of_experts = active and anatomy.family.of_experts(name)
        return numbers * active // anatomy.num_experts if of_experts else numbers

    weights = {name: used(name, math.prod(shape)) for name, shape in anatomy.shapes.items()}
    if anatomy.num_experts:
        weights[ROUTER] = anatomy.num_experts * anatomy.hidden_size
    stages = _stages(anatomy)
    # Two products of [length, head_dim] matrices for each row and head: scores, and values weighed by them.
    attention = 4 * batch.rows * batch.length**2 * anatomy.num_heads * anatomy.head_dim
    forward = [2 * batch.tokens * sum(weights.values()) + attention] * anatomy.num_layers
    for at, chain in work.added.items():
        forward[at[0]] += 2 * batch.tokens * used(at[1], sum(chain)) * (1 + (at in work.twice))
    for at, numbers in work.fixed.items():
        forward[at[0]] += 2 * batch.tokens * used(at[1], numbers)

    lowest, start = _lowest(work, stages), work.first_layer
    first = len(forward) if start is None else start
    total = sum(forward[first if cached else 0 :])
    if checkpointing:
        total += sum(forward[first:])
    for layer in range(first, anatomy.num_layers):
        # What lies below the first trained layer needs no gradient, and its lowest trained weights none of their input.
        total += sum(2 * batch.tokens * n for name, n in weights.items() if (layer, stages[name]) > lowest)
        total += 2 * attention if (layer, stages[anatomy.family.query.module]) >= lowest else 0
    for at, chain in work.added.items():
        again = at in work.twice
        total += 2 * batch.tokens * used(at[1], sum(chain)) * (2 + again)
        if (at[0], stages[at[1]]) <= lowest:
            total -= 2 * batch.tokens * used(at[1], chain[0]) * (1 + again)
    for at, numbers in work.fixed.items():
        total += 2 * batch.tokens * used(at[1], numbers) * ((at[0], stages[at[1]]) > lowest)
    total += 2 * batch.tokens * sum(used(name, numbers) for (_, name), numbers in work.in_place.items())
    passes = 1 + (start is not None or work.head) + work.head
    return total + 2 * passes * batch.labels * head


def active_parameters(anatomy: Anatomy, active: int) -> int:
    """Parameters that a token meets when it is sent to so many experts (0: to all)."""
    if not active:
        return anatomy.num_parameters
    experts = sum(size for name, size in anatomy.parameters.items() if anatomy.family.of_experts(name))
    return anatomy.num_parameters - anatomy.num_layers * experts * (anatomy.num_experts - active) // anatomy.num_experts


def prefix_bytes(hidden: int, itemsize: int, length: int, examples: int = 1000) -> int:
    """Bytes of the hidden states that a prefix cache keeps for so many examples."""
    return hidden * itemsize * length * examples


def _stages(anatomy: Anatomy) -> dict[str, int]:
    """The order in which a layer computes its projections: 0 query, key, value; 1 out; 2 router, up; 3 down."""
    f = anatomy.family
    up = {ROUTER, *(rows.module for rows in f.up)}
    order = [{f.query.module, f.key.module, f.value.module}, {f.out}, up, {f.down}]
    # Of further ones it is not known; before all else, they cost most.
    return dict.fromkeys(f.beside, 0) | {name: stage for stage, names in enumerate(order) for name in names}


def _lowest(work: Work, stages: Mapping[str, int]) -> tuple[int, int]:
    """Layer and stage of the first trained numbers; norms lie before everything in their layer."""
    places = [(layer, stages[name]) for layer, name in (*work.in_place, *work.added)]
    places += [(layer, -1) for layer in work.other]
    return (-1, -1) if work.embedding else min(places, default=(1 << 30, 0))
