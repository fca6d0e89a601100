"""Which layout a model has, and on what proof: the tests prove the families of the table, first use proves others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import GuidedError
from .families import FAMILIES, family_of, rows_of, unknown
from .family import LINEAR, Family
from .linear import has_linear_layers
from .proof import Proof
from .recognise import recognised

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

WRAPPERS: tuple[str, ...] = ()
"""Types of models around a text model that the tests prove."""

_PROVED: dict[str, Proof] = {}
"""What was proved in this process, by ``_key``."""

_NO_SETTINGS = ("_name_or_path", "architectures", "dtype", "transformers_version")
_ON_TRIAL: dict[str, Family] = {}


def candidates(base: PreTrainedModel) -> list[Family]:
    """The layouts that a causal LM may have, the likeliest first.

    A row for its type and settings; or else the row that it is built like, and linear layers, which most models have.

    Raises:
        GuidedError: if there is none.
    """
    config = base.config.get_text_config()
    found = rows_of(config)
    if found and config is base.config:
        return found
    if not found and not any(config.model_type in family.model_types for family in FAMILIES):
        alike = recognised(base)
        found = [alike] if alike else []
    found += [LINEAR] if has_linear_layers(base) else []
    if not found:
        raise unknown(config.model_type)
    return found


def layout_of(base: PreTrainedModel) -> tuple[Family, tuple[str, ...]]:
    """The layout of a causal LM's layers, and which of ``PROVED_APART`` does not hold beyond what the layout says.

    Proves it if it is not listed and nobody has.

    Raises:
        GuidedError: if there is none, or none that can be proved.
    """
    config, text = base.config, base.config.get_text_config()
    if name_of(config) in _ON_TRIAL:
        return _ON_TRIAL[name_of(config)], ()
    rows = rows_of(text)
    if rows and (config is text or config.model_type in WRAPPERS):
        return rows[0], ()
    key = _key(config)
    if key not in _PROVED:
        candidates(base)
        prove(base)
    proof = _PROVED[key]
    if not proof:
        raise GuidedError(proof.refusal())
    return family_of(text.model_type, proof.layout), proof.unproved


Prover = Callable[["nn.Module | PreTrainedConfig"], Proof]

_PROVERS: list[Prover] = []


def proved_by(prover: Prover) -> None:
    """Have a function prove what nobody has proved. The proofs stand on rooms above this one, and enter themselves."""
    _PROVERS[:] = [prover]


def prove(model: nn.Module | PreTrainedConfig) -> Proof:
    """See ``Anatomy.prove``."""
    return _PROVERS[0](model)


def name_of(config: PreTrainedConfig) -> str:
    """``llama``, or ``llava/llama`` for a model around a text model."""
    text = config.get_text_config()
    return text.model_type if config is text else f"{config.model_type}/{text.model_type}"


@contextmanager
def on_trial(config: PreTrainedConfig, family: Family) -> Iterator[None]:
    """Inside, models of this type are taken to have this layout."""
    name = name_of(config)
    before = dict(_ON_TRIAL)
    _ON_TRIAL[name] = family
    try:
        yield
    finally:
        _ON_TRIAL.clear()
        _ON_TRIAL.update(before)


def remember(config: PreTrainedConfig, proof: Proof) -> None:
    """Keep what was proved of a config for the rest of this process."""
    _PROVED[_key(config)] = proof


def _key(config: PreTrainedConfig) -> str:
    """Name of a type and all of its settings but sizes, which the proof does not depend on."""
    found = config.get_text_config().to_dict().items()
    known = (bool, int, float, str, list, type(None))
    settings = {k: _beside_sizes(v) for k, v in found if type(v) in known and k not in _NO_SETTINGS}
    return name_of(config) + hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _beside_sizes(value: object) -> str:
    """What a setting says: of a number whether there is any, of a list, with a value a layer, which there are."""
    if isinstance(value, list):
        return str(sorted({_beside_sizes(each) for each in value}))
    return str(value > 0 if type(value) is int else value)
