"""Where the parts of each architecture family live. A new family is a new row of data.

Every row speaks of one layer. ``Rows`` says which output rows of a projection a head or a neuron owns; its
numbers count heads' widths (for heads) or single rows (for neurons), so that one row of data serves all sizes.
``FAMILIES.md`` says what is proved of each; ``Anatomy.prove(model)`` proves it of any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import GuidedError
from .experts import MIXTURES
from .family import LINEAR, Family
from .gpts import GPTS
from .llamas import LLAMAS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FAMILIES: tuple[Family, ...] = (*LLAMAS, *GPTS, *MIXTURES, LINEAR)


def family_of(model_type: str, layout: str = "") -> Family:
    """Look a family up by its layout's name, or by ``config.model_type``.

    Raises:
        GuidedError: for an unknown one; it says how to add it.
    """
    for family in FAMILIES:
        if (family.layout == layout) if layout else (model_type in family.model_types):
            return family
    raise unknown(model_type)


def rows_of(config: PreTrainedConfig) -> list[Family]:
    """The layouts of a config's model type: one whose settings are met, or none; several for no type."""
    return [f for f in FAMILIES if config.model_type in f.model_types and f.meets(config)]


def named_by_layout(model_type: str) -> bool:
    """Whether the type alone does not tell the layout: no row has it, or several."""
    return sum(model_type in family.model_types for family in FAMILIES) != 1


def unknown(model_type: str) -> GuidedError:
    """What is said of an architecture without a row."""
    known = len({name for family in FAMILIES for name in family.model_types})
    return GuidedError(
        f"architecture {model_type!r} is unknown, and it has no list of layers with linear layers in them ({known} "
        "others are known: guided_ft/anatomy/FAMILIES.md; a row in llamas.py, gpts.py or experts.py adds one)"
    )
