"""What a callback says before training, in one line."""

from __future__ import annotations

from typing import Any

from ..plan.modes.located import Located
from ..plan.plan import Plan
from ..selection.scoremap import ScoreMap
from ..selection.telling import counted


def told(plan: Plan, scores: Any) -> str:
    """``guided_ft: scored ... by attribution (6 passes, 15 s); chose 77 neurons, ...; trains ... in slice mode``.

    Args:
        scores: the map that the plan was made from here; None: the plan was ready.
    """
    chosen = str(plan.selection).splitlines()[0]
    parts = [f"{'chose' if scores else 'plan of'} {chosen}", f"trains {plan.num_parameters:,} in {plan.mode} mode"]
    if isinstance(scores, ScoreMap):
        meta = scores.meta
        sizes = counted({kind: scores.of(kind).size for kind in scores.kinds})
        cost = f"{meta.get('passes', 0)} passes, {meta.get('seconds', 0):.0f} s"
        parts.insert(0, f"scored {sizes} by {meta.get('method')} ({cost})")
    if isinstance(scores, Located):
        bases, found = scores.directions.bases, scores.meta
        cost = f"{found.get('passes', 0)} passes, {found.get('seconds', 0):.0f} s"
        parts.insert(0, f"mapped {sum(map(len, bases.values())):,} directions in {len(bases)} linear layers ({cost})")
    return "guided_ft: " + "; ".join(parts)
