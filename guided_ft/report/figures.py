"""The figures of the page, as plotly data: plain lists and dicts, no drawing here.

No text from outside goes into a figure but the names of controls, which are escaped: plotly reads HTML in labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import numpy as np

from ..selection.chosen import Chosen
from ..selection.scoremap import ScoreMap
from ..system.files import Json
from .facts import counted
from .record import RunRecord
from .scales import ACCENT, DECADES, GREY, INK, SOFT, base_layout, bin_edges, colour_scale, every, log_ticks, mark


@dataclass(frozen=True)
class Figure:
    """One figure: what plotly draws, and the words around it."""

    id: str
    title: str
    note: str
    data: list[Json]
    layout: Json


def figures(run: RunRecord, scores: ScoreMap | None, selection: Chosen, control: Chosen | None) -> list[Figure]:
    """All figures that this run has data for, in the order of the page."""
    made = [
        loss(run),
        *([heads(scores, selection), layers(scores, selection)] if scores else []),
        chosen_per_layer(selection, control),
        *([histogram(scores, selection)] if scores else []),
    ]
    return [figure for figure in made if figure is not None]


def loss(run: RunRecord) -> Figure | None:
    """The training loss, or the reward where there is one, of the located selection and of every control."""
    what = "reward" if run.reward else "loss"
    curves = {"located": getattr(run, what)}
    curves |= {f"{name} control": getattr(c, what) for name, c in run.control.items()}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return None
    dashes = ["solid", "solid", "dash", "dot", "dashdot"]
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(points) <= 40 else "lines",
            "name": escape(name),
            "x": [step for step, _ in points],
            "y": [value for _, value in points],
            "line": {"color": ACCENT if name == "located" else GREY, "width": 2, "dash": dashes[i % len(dashes)]},
            "marker": {"size": 5},
            "hovertemplate": "step %{x}: %{y:.4f}",
        }
        for i, (name, points) in enumerate(curves.items())
    ]
    note = f"What the trainer {'minimized' if what == 'loss' else 'maximized, the mean of a step'}. " + (
        "Grey: a control with the same budget and the same data."
        if len(curves) > 1
        else "No control was trained to compare with."
    )
    unit = "training loss (nats)" if what == "loss" else "mean reward"
    layout = base_layout(330, "optimizer step", unit)
    layout |= {"hovermode": "x unified", "showlegend": True}
    return Figure("fig-loss", "Training loss" if what == "loss" else "Reward", note, data, layout)


def heads(scores: ScoreMap, selection: Chosen) -> Figure | None:
    """Layer by head; the chosen heads carry a dot."""
    if scores.head is None:
        return None
    values = scores.head.T.astype(float)
    num_heads, num_layers = values.shape
    scale, logarithmic = colour_scale(values)
    chosen = [c for c in selection.components if c.kind == "head"]
    data: list[Json] = [
        {
            "type": "heatmap",
            "x": list(range(num_layers)),
            "y": list(range(num_heads)),
            "customdata": values.tolist(),
            "xgap": 1,
            "ygap": 1,
            "hovertemplate": "L%{x}.H%{y}<br>score %{customdata:.4g}<extra></extra>",
            **scale,
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "chosen",
            "x": [c.layer for c in chosen],
            "y": [c.index for c in chosen],
            "marker": {
                "size": 9 if max(values.shape) <= 64 else 5,
                "color": "#ffffff",
                "line": {"color": INK, "width": 2},
            },
            "hoverinfo": "skip",
            "showlegend": bool(chosen),
        },
    ]
    kind = "Colours are on a log scale. " if logarithmic else "Blue is positive, brown negative. "
    kind = kind if (values < 0).any() or logarithmic else ""
    note = f"{kind}{len(chosen)} of {values.size:,} heads chosen" + (" (white dots)." if chosen else ".")
    layout = base_layout(min(900, 130 + 22 * num_heads), "layer", "head")
    layout["xaxis"] |= every(num_layers, 36) | {"range": [-0.5, num_layers - 0.5], "showgrid": False}
    layout["yaxis"] |= every(num_heads, 20) | {"range": [num_heads - 0.5, -0.5], "showgrid": False, "zeroline": False}
    layout["margin"] |= {"r": 20}
    return Figure("fig-heads", "Scores of the heads", note, data, layout)


def layers(scores: ScoreMap, selection: Chosen) -> Figure | None:
    """One bar a layer; chosen layers are darker."""
    if scores.layer is None:
        return None
    chosen = {c.layer for c in selection.components if c.kind == "layer"}
    values = scores.layer.astype(float).tolist()
    data = [
        {
            "type": "bar",
            "x": list(range(len(values))),
            "y": values,
            "marker": {"color": [ACCENT if i in chosen or not chosen else SOFT for i in range(len(values))]},
            "hovertemplate": "L%{x}<br>score %{y:.4g}<extra></extra>",
        }
    ]
    note = (
        f"{len(chosen)} of {len(values)} layers chosen as a whole (dark)." if chosen else "None was chosen as a whole."
    )
    layout = base_layout(260, "layer", f"score{_unit(scores)}")
    layout["xaxis"] |= every(len(values), 36) | {"showgrid": False}
    return Figure("fig-layers", "Scores of the layers", note, data, layout)


def chosen_per_layer(selection: Chosen, control: Chosen | None) -> Figure | None:
    """How many components each layer gave, located beside random: neurons, or heads if no neuron was chosen."""
    both = [s for s in (selection, control) if s is not None]
    kind = next((k for k in ("direction", "neuron", "head", "layer") if any(s.counts().get(k) for s in both)), None)
    if kind is None:
        return None
    data = [
        {
            "type": "bar",
            "name": name,
            "x": list(range(s.anatomy.num_layers)),
            "y": s.per_layer(kind),
            "marker": {"color": colour},
            "hovertemplate": f"L%{{x}}: %{{y}} {kind}s",
        }
        for name, colour, s in zip(("located", "random control"), (ACCENT, GREY), both, strict=False)
    ]
    counts = selection.per_layer(kind)
    note = f"{counted(sum(counts), kind)} chosen, in {sum(n > 0 for n in counts)} of {len(counts)} layers."
    if control is not None and kind != "direction":
        mine, theirs = ({c for c in s.components if c.kind == kind} for s in both)
        note += f" The random control has {len(theirs):,}, {len(mine & theirs):,} of them the same."
    layout = base_layout(300, "layer", f"chosen {kind}s")
    layout |= {"barmode": "group", "bargap": 0.25, "showlegend": True, "hovermode": "x unified"}
    layout["xaxis"] |= every(len(counts), 36) | {"showgrid": False}
    layout["yaxis"] |= {"tickformat": ",d", "rangemode": "tozero"}
    if max(max(s.per_layer(kind)) for s in both) <= 8:
        layout["yaxis"] |= {"dtick": 1}
    return Figure("fig-chosen", f"Chosen {kind}s in each layer", note, data, layout)


def histogram(scores: ScoreMap, selection: Chosen) -> Figure | None:
    """All neuron scores, the chosen ones in colour, and the score from which on neurons were chosen."""
    if scores.neuron is None:
        return None
    values = scores.neuron.astype(float)
    picked = np.zeros(values.shape, bool)
    for c in selection.components:
        if c.kind == "neuron":
            picked[c.layer, selection.anatomy.position(c)] = True
    notes = [f"{int(picked.sum()):,} of {values.size:,} neurons chosen."]
    logarithmic = bool(values.min() >= 0 and values.max() > 0)
    drawn = values > values.max() * 10.0 ** (-2 * DECADES) if logarithmic else np.ones(values.shape, bool)
    place = np.log10(np.where(drawn, values, 1)) if logarithmic else values
    if not drawn.all():
        notes.append(f"{int((~drawn).sum()):,} with a score of zero, or far below all others, are not drawn.")

    shown = place[drawn & picked]
    cut = float(shown.min() if shown.size else place[drawn].min())
    edges, width = bin_edges(place[drawn], cut)
    centres = ((edges[:-1] + edges[1:]) / 2).round(6).tolist()
    data = []
    for name, colour, mask in (("all neurons", GREY, drawn), ("chosen", ACCENT, drawn & picked)):
        bar = {"type": "bar", "name": name, "x": centres, "y": np.histogram(place[mask], edges)[0].tolist()}
        bar |= {"width": width, "marker": {"color": colour}, "hovertemplate": f"{name}: %{{y}}<extra></extra>"}
        data.append(bar)

    layout = base_layout(320, f"score of a neuron{_unit(scores)}" + logarithmic * ", log scale", "neurons, log scale")
    layout |= {"barmode": "overlay", "bargap": 0, "showlegend": True}
    if logarithmic:
        layout["xaxis"] |= log_ticks(float(place[drawn].min()), float(place[drawn].max()))
    # A log axis has no zero to stand on: half a neuron is the floor, so that one neuron is still seen.
    highest = max(2, *data[0]["y"])
    layout["yaxis"] |= {"type": "log", "range": [math.log10(0.5), math.log10(highest * 1.6)], "dtick": 1}
    layout["yaxis"] |= {"tickformat": ",d"}
    if picked.any():
        lowest = float(values[picked].min())
        if picked.all() or values[~picked].max() <= lowest:
            mark(layout, cut, f"cut-off {lowest:.3g}")
            if cut < (centres[0] + centres[-1]) / 2:
                layout["legend"] |= {"x": 1, "xanchor": "right"}
        else:
            notes.append("They were not chosen by score alone, so there is no cut-off.")
    return Figure("fig-histogram", "Scores of the neurons", " ".join(notes), data, layout)


_UNITS = {"ratio": " (task / retain)", "difference": " (task - retain)"}
"""Of two-sided maps; other scores are in the unit of their method."""


def _unit(scores: ScoreMap) -> str:
    return _UNITS.get(str(scores.meta.get("combine")), "")
