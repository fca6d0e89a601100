"""From a ``Way`` to a ``Setup``: a fresh model is made ready to be trained that way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arms import parts
from ..arms.ways import Adapter, Mixed, Started, Untrained, Way, Whole
from . import peers
from .directed import directed, mixed
from .extras import aside, moving, outward, redrawn
from .located import located, top_layers
from .setup import Setup, Trial
from .started import started


def untrained(way: Untrained, trial: Trial) -> Setup:
    return Setup(trial.model)


def whole(way: Whole, trial: Trial) -> Setup:
    """All weights, by the trainer's optimizer or in the turns of a peer."""
    if way.peer == "badam":
        return Setup(trial.model, optimizer=peers.badam)
    rotating = {"lisa": peers.Lisa, "hft": peers.HalfFineTuning}
    return Setup(trial.model, [rotating[way.peer](trial.model, trial.cell.seed)] if way.peer else [])


def adapter(way: Adapter, trial: Trial) -> Setup:
    """An adapter of PEFT of the size that the cell's budget buys, where it has one."""
    parameters = trial.parameters if trial.cell.budget is not None else 0
    modules = way.modules if isinstance(way.modules, str) else list(way.modules)
    change = peers.lora(modules, **dict(way.options)) if way.kind == "lora" else getattr(peers, way.kind)
    return Setup(change(trial.model, parameters, trial.cell.seed))


READY: dict[type[Way], Callable[[Any, Trial], Setup]] = {
    Untrained: untrained,
    Whole: whole,
    Mixed: mixed,
    Adapter: adapter,
    Started: started,
    parts.TopLayers: top_layers,
    parts.Located: located,
    parts.Directed: directed,
    parts.LateDirected: directed,
    parts.MovingDirected: moving,
    parts.RedrawnDirected: redrawn,
    parts.OutwardDirected: outward,
    parts.AsideLocated: aside,
}


def ready(way: Way, trial: Trial) -> Setup:
    """Make the trial's model ready."""
    way = way.resolved
    return READY[type(way)](way, trial)
