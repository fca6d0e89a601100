"""Proofs that a family's map is true and that everything computes alike, on a tiny random model.

Imported as soon as ``guided_ft.anatomy`` is, which asks it to prove what nobody has proved; torch comes with the proof.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..anatomy import Proof, proved_by

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig


def prove(model: nn.Module | PreTrainedConfig) -> Proof:
    """Put a family's map and everything that computes with it to the test. See ``Anatomy.prove``.

    Args:
        model: a causal LM, adapted or not, or a config of one; it is not changed.

    Raises:
        GuidedError: if the architecture is like no known one, or no tiny copy of it can be made.
    """
    from .proving import proof_of

    return proof_of(model)


proved_by(prove)
