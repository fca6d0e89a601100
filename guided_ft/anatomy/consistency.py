"""Whether the numbers of an anatomy that was read from a file can be those of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .anatomy import Anatomy


def adds_up(anatomy: Anatomy) -> bool:
    """Whether sizes, shapes and counts agree with each other and with the family's layout."""
    a, f = anatomy, anatomy.family
    numbers = (a.num_layers, a.num_heads, a.num_groups, a.num_neurons, a.head_dim, a.num_parameters)
    if not isinstance(a.prefix, str) or any(type(n) is not int or n < 1 for n in numbers):
        return False
    if type(a.num_experts) is not int or a.num_experts < 0 or bool(a.num_experts) != bool(f.experts):
        return False
    if set(a.shapes) != set(f.projections) or a.num_heads % a.num_groups or a.num_neurons % max(a.num_experts, 1):
        return False
    for name, shape in a.shapes.items():
        if len(shape) < 2 or shape[:-2] != ((a.num_experts,) if f.of_experts(name) else ()):
            return False
    qkv_rows, up_rows = (
        sum(a.outputs_inputs(m)[0] for m in {r.module for r in rows}) for rows in ((f.query, f.key, f.value), f.up)
    )
    return (
        qkv_rows == (a.num_heads + 2 * a.num_groups) * a.head_dim
        and a.outputs_inputs(f.out)[1] == a.num_heads * a.head_dim
        and up_rows == len(f.up) * a.neurons_per_expert
        and a.outputs_inputs(f.down)[1] == a.neurons_per_expert
        and min(a.parameters.values(), default=0) > 0
        and a.num_layers * sum(a.parameters.values()) <= a.num_parameters
    )
