"""guided_ft: find the parts of a language model that matter for a task, train only those, and prove it.

Names are loaded on first use, so that ``import guided_ft`` and the command line stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._peft_hook import register_with_peft

__version__ = "0.1.0"

# Where each name lives; "" for a module that is itself the name.
_HOME = {
    "Anatomy": "anatomy",
    "Component": "anatomy",
    "GuidedCallback": "callback",
    "GuidedError": "errors",
    "Plan": "plan",
    "Recipe": "recipe",
    "ScoreMap": "scoremap",
    "Selection": "selection",
    "SliceConfig": "slice",
    "Task": "task",
    "export": "",
    "load_model": "models",
    "load_tokenizer": "models",
    "localize": "scorers.localize",
    "run": "pipeline",
    "select": "budget",
}

__all__ = [
    "Anatomy",
    "Component",
    "GuidedCallback",
    "GuidedError",
    "Plan",
    "Recipe",
    "ScoreMap",
    "Selection",
    "SliceConfig",
    "Task",
    "export",
    "load_model",
    "load_tokenizer",
    "localize",
    "run",
    "select",
]

if TYPE_CHECKING:
    from . import export
    from .anatomy import Anatomy, Component
    from .budget import select
    from .callback import GuidedCallback
    from .errors import GuidedError
    from .models import load_model, load_tokenizer
    from .pipeline import run
    from .plan import Plan
    from .recipe import Recipe
    from .scoremap import ScoreMap
    from .scorers.localize import localize
    from .selection import Selection
    from .slice import SliceConfig
    from .task import Task


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f".{_HOME[name] or name}", __name__)
    value = getattr(home, name) if _HOME[name] else home
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_peft()
