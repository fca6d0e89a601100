"""Make PEFT know the slice method.

``peft.register_peft_method`` accepts only names that are members of the closed enum ``PeftType``, and PEFT,
transformers and TRL all read ``peft_type.value``, so a plain string will not do. The enum gets one more member.
"""

from __future__ import annotations

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType, register_peft_method

from .config import PEFT_TYPE, SliceConfig
from .model import SliceModel


def _extend_enum(name: str) -> PeftType:
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = PeftType  # type: ignore[attr-defined]
    # Python 3.12+ looks members up as class attributes; before that, in _member_map_.
    type.__setattr__(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    return member


def register() -> None:
    """Add the slice method to PEFT's tables; a second call does nothing."""
    member = _extend_enum(PEFT_TYPE)
    if member not in PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(name=PEFT_TYPE.lower(), config_cls=SliceConfig, model_cls=SliceModel, prefix="slice_")
