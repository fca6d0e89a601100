"""guided_ft: find the parts of a language model that matter for a task, train only those, and prove it.

Names are loaded on first use, so that ``import guided_ft`` and the command line stay fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._peft_hook import register_with_peft
from .system.lazy import lazily
from .system.progress import drop_kernel_notice

__version__ = "0.1.0"

# Where each name lives; "" for a module that is itself the name.
_HOME = {
    "Anatomy": "anatomy",
    "Component": "anatomy",
    "DirectionMap": "selection",
    "GuidedCallback": "callback",
    "GuidedError": "errors",
    "Plan": "plan",
    "Recipe": "recipe",
    "ScoreMap": "selection",
    "Selection": "selection",
    "SliceConfig": "slice",
    "Subspace": "selection",
    "Task": "task",
    "export": "",
    "faithfulness": "scorers.faithfulness",
    "load_model": "models",
    "load_tokenizer": "models",
    "prove": "proofs",
    "localize": "scorers.localize",
    "localize_directions": "scorers.directions",
    "run": "pipeline",
    "select": "selection",
    "select_directions": "selection",
}

__all__ = [
    "Anatomy",
    "Component",
    "DirectionMap",
    "GuidedCallback",
    "GuidedError",
    "Plan",
    "Recipe",
    "ScoreMap",
    "Selection",
    "SliceConfig",
    "Subspace",
    "Task",
    "export",
    "faithfulness",
    "load_model",
    "load_tokenizer",
    "localize",
    "localize_directions",
    "prove",
    "run",
    "select",
    "select_directions",
]

if TYPE_CHECKING:
    from . import export
    from .anatomy import Anatomy, Component
    from .callback.callback import GuidedCallback
    from .errors import GuidedError
    from .models import load_model, load_tokenizer
    from .pipeline.pipeline import run
    from .plan.plan import Plan
    from .proofs import prove
    from .recipe.recipe import Recipe
    from .scorers.directions.localize import localize_directions
    from .scorers.faithfulness import faithfulness
    from .scorers.localize import localize
    from .selection.budget import select
    from .selection.directions import DirectionMap
    from .selection.scoremap import ScoreMap
    from .selection.selection import Selection
    from .selection.spend import select_directions
    from .selection.subspace import Subspace
    from .slice import SliceConfig
    from .task.task import Task


__getattr__ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


drop_kernel_notice()
register_with_peft()
