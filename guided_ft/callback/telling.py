"""What a callback says before training, in one line."""

from __future__ import annotations

from ..plan.modes.located import Located
from ..plan.plan import Plan
from ..selection.scoremap import ScoreMap
from ..selection.telling import counted


def told(plan: Plan, scores: ScoreMap | Located | None) -> str:
    """``guided_ft: scored ... (attribution, 6 passes, 15 s); chose 77 neurons, ...; trains ... in slice mode``.

    Args:
        scores: the map that the plan was made from here; None: the plan was ready.
    """
    chosen = str(plan.selection).splitlines()[0]
    parts = [f"{'chose' if scores else 'plan of'} {chosen}", f"trains {plan.num_parameters:,} in {plan.mode} mode"]
    if scores is not None:
        meta = scores.meta
        cost = f"{meta.get('method')}, {meta.get('passes', 0)} passes, {meta.get('seconds', 0):.0f} s"
        parts.insert(0, f"scored {counted(scores.sizes)} ({cost})")
    return "guided_ft: " + "; ".join(parts)
