"""Whether a plan fits a model: asked before anything of the model is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..anatomy import Anatomy, check_own_forward
from ..errors import GuidedError

if TYPE_CHECKING:
    from torch import nn

_FIELDS = {
    "model_type": "the model is a {}",
    "num_layers": "{} layers",
    "num_heads": "{} heads a layer",
    "num_groups": "{} key/value groups a layer",
    "num_neurons": "{} neurons a layer",
    "num_experts": "{} experts a layer",
    "head_dim": "heads {} wide",
    "prefix": "layers at {}",
}
"""What two anatomies must share, and how it is said. The vocabulary may differ: nothing of it is trained."""


def check_same_model(anatomy: Anatomy, model: nn.Module) -> None:
    """Raise GuidedError, with the first difference, unless a model has the parts that a plan was made for."""
    check_own_forward(model)
    difference = _difference(anatomy, Anatomy.of(model))
    if difference:
        raise GuidedError(f"plan: it was made for another model ({difference}): make one for this model")


def check_plain(model: nn.Module, beside: bool) -> None:
    """Raise GuidedError for a model that carries an adapter already.

    Args:
        beside: whether PEFT can put the plan's adapter beside it.
    """
    carried = list(getattr(model, "peft_config", {}))
    if carried:
        mend = ", or put one beside it with model.add_adapter(name, plan.peft_config())" if beside else ""
        raise GuidedError(
            f"plan: the model carries an adapter already, {carried[0]!r} (attach to the plain model, or merge it first "
            f"with model.merge_and_unload(){mend})"
        )


def _difference(planned: Anatomy, found: Anatomy) -> str | None:
    for name, words in _FIELDS.items():
        theirs, ours = getattr(planned, name), getattr(found, name)
        if theirs != ours:
            return f"there {words.format(theirs)}, here {words.format(ours)}"
    for name in ("shapes", "parameters"):
        difference = _first(getattr(planned, name), getattr(found, name))
        if difference:
            return difference
    return None


def _first(theirs: dict[str, object], ours: dict[str, object]) -> str | None:
    for key in sorted({*theirs, *ours}):
        if theirs.get(key) != ours.get(key):
            there, here = (d.get(key, "missing") for d in (theirs, ours))
            return f"{key}: there {there}, here {here}"
    return None
