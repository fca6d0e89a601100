"""Which layout a model has, and on what proof: the tests prove the families of the table, first use proves others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import GuidedError
from .families import FAMILIES, rows_of, unknown
from .family import Family
from .proof import Proof
from .recognise import recognised

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

WRAPPERS: tuple[str, ...] = ()
"""Types of models around a text model that the tests prove."""

_PROVED: dict[str, Proof] = {}
"""What was proved in this process, by ``_key``."""

_NO_SETTINGS = ("_name_or_path", "dtype", "transformers_version")
_ON_TRIAL: set[str] = set()


def family_for(base: PreTrainedModel) -> Family:
    """The layout of a causal LM's layers: a row for its type and settings, or the row that it is built like.

    Raises:
        GuidedError: if there is none.
    """
    config = base.config.get_text_config()
    rows = rows_of(config)
    if rows:
        return rows[0]
    settings = [f"{f.layout}: {_words(f)}" for f in FAMILIES if config.model_type in f.model_types]
    if settings:
        raise GuidedError(f"{config.model_type}: the settings are those of no known layout ({'; '.join(settings)})")
    family = recognised(base)
    if family is None:
        raise unknown(config.model_type)
    return family


def what_is_unproved(base: PreTrainedModel, family: Family) -> tuple[str, ...]:
    """Which of ``PROVED_APART`` does not hold for a model, beyond what its row says; proves it if nobody has.

    Raises:
        GuidedError: if the proof fails.
    """
    config, text = base.config, base.config.get_text_config()
    name = name_of(config)
    listed = text.model_type in family.model_types
    if (listed and (config is text or config.model_type in WRAPPERS)) or name in _ON_TRIAL:
        return ()
    key = _key(config)
    if key not in _PROVED:
        prove(base)
    proof = _PROVED[key]
    if not proof:
        raise GuidedError(proof.refusal())
    return proof.unproved


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
def on_trial(config: PreTrainedConfig) -> Iterator[None]:
    """Inside, models of this type are taken for what they look like."""
    name = name_of(config)
    new = name not in _ON_TRIAL
    _ON_TRIAL.add(name)
    try:
        yield
    finally:
        if new:
            _ON_TRIAL.discard(name)


def remember(config: PreTrainedConfig, proof: Proof) -> None:
    """Keep what was proved of a config for the rest of this process."""
    _PROVED[_key(config)] = proof


def _key(config: PreTrainedConfig) -> str:
    """Name of a type and all of its settings but sizes, which the proof does not depend on."""
    found = config.get_text_config().to_dict().items()
    settings = {k: str(v) for k, v in found if type(v) in (bool, float, str, type(None)) and k not in _NO_SETTINGS}
    return name_of(config) + hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _words(family: Family) -> str:
    return ", ".join(f"{name}={value}" for name, value in family.when)
