"""The figures of the report."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest
from reports import HEADS, LAYERS, NEURONS, Page, a_run, anatomy, make, score_map

from guided_ft.anatomy import Component
from guided_ft.report import write_report
from guided_ft.report.facts import amount
from guided_ft.selection.budget import select
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.selection.selection import Selection

FIGURES = ["fig-loss", "fig-heads", "fig-layers", "fig-chosen", "fig-histogram"]


def test_every_figure_is_there_and_plotly_takes_it(page: Page) -> None:
    assert list(page.figures) == FIGURES
    for name, figure in page.figures.items():
        assert name in page.ids, "a place to draw it"
        built = go.Figure(data=figure["data"], layout=figure["layout"])
        assert built.layout.xaxis.title.text
        assert built.layout.yaxis.title.text
    assert page.figures["fig-layers"]["layout"]["yaxis"]["title"]["text"] == "score (task / retain)"
    titles = page.figures["fig-histogram"]["layout"]["xaxis"]["title"]
    assert titles["text"] == "score of a neuron (task / retain), log scale"


def test_the_heat_map_marks_the_chosen_heads(tmp_path) -> None:
    scores = score_map()
    make(tmp_path)
    chosen = [Component("head", 0, 5), Component("head", 3, 1)]
    Selection(scores.anatomy, (*chosen, Component("neuron", 1, 1))).save(tmp_path / "selection.json")
    heat, dots = Page(write_report(tmp_path)).figures["fig-heads"]["data"]
    assert list(zip(dots["x"], dots["y"], strict=True)) == [(0, 5), (3, 1)]
    assert np.allclose(np.array(heat["customdata"]), scores.head.T)
    assert np.allclose(np.array(heat["z"]), np.log10(scores.head.T), atol=1e-4)


@pytest.mark.parametrize("kind", ["zeros", "all zero", "signed", "equal", "tiny"])
def test_scales_survive_odd_maps(tmp_path, kind: str) -> None:
    rng = np.random.default_rng(1)
    head, neuron = rng.random((LAYERS, HEADS)), rng.random((LAYERS, NEURONS))
    if kind == "zeros":
        head[0], neuron[1] = 0, 0
    elif kind == "all zero":
        head, neuron = head * 0, neuron * 0
    elif kind == "signed":
        head, neuron = head - 0.5, neuron - 0.5
    elif kind == "equal":
        head, neuron = head * 0 + 2, neuron * 0 + 2
    else:
        head[0, 0], neuron[0, 0] = 1e-38, 1e-38
    figures = Page(write_report(make(tmp_path, scores=score_map(head=head, neuron=neuron)))).figures
    heat = figures["fig-heads"]["data"][0]
    z = np.array(heat["z"], float)
    assert np.isfinite(z).all()
    assert z.min() >= heat["zmin"] - 1e-4
    assert z.max() <= heat["zmax"] + 1e-4
    assert heat["zmin"] < heat["zmax"] <= heat["zmin"] + 6.001 if kind == "tiny" else heat["zmin"] < heat["zmax"]
    if kind in ("signed", "all zero"):
        assert heat["zmin"] == -heat["zmax"]
    every, _ = figures["fig-histogram"]["data"]
    not_drawn = {"zeros": NEURONS, "tiny": 1}.get(kind, 0)
    assert sum(every["y"]) == LAYERS * NEURONS - not_drawn
    go.Figure(data=figures["fig-histogram"]["data"], layout=figures["fig-histogram"]["layout"])


def test_the_cut_off_parts_the_chosen_neurons_from_the_others(tmp_path) -> None:
    scores = score_map()
    make(tmp_path, scores=scores)
    figure = Page(write_report(tmp_path)).figures["fig-histogram"]
    every, chosen = figure["data"]
    picked = [c for c in Selection.load(tmp_path / "selection.json") if c.kind == "neuron"]
    assert sum(chosen["y"]) == len(picked)
    assert sum(every["y"]) == scores.neuron.size
    lowest = min(scores.score(c) for c in picked)
    line = figure["layout"]["shapes"][0]
    assert line["x0"] == line["x1"] == pytest.approx(np.log10(lowest))
    assert figure["layout"]["annotations"][0]["text"] == f"cut-off {lowest:.3g}"
    for centre, all_count, chosen_count in zip(every["x"], every["y"], chosen["y"], strict=True):
        assert chosen_count == (all_count if centre > line["x0"] else 0)


@pytest.mark.parametrize(
    ("combine", "unit"),
    [("ratio", " (task / retain)"), ("difference", " (task - retain)"), ("least", ""), (None, "")],
)
def test_the_axes_say_how_a_map_is_held_against_the_retain_set(tmp_path, combine, unit) -> None:
    scores = score_map()
    scores.meta["combine"] = combine
    figures = Page(write_report(make(tmp_path, scores=scores))).figures
    assert figures["fig-layers"]["layout"]["yaxis"]["title"]["text"] == f"score{unit}"
    assert figures["fig-histogram"]["layout"]["xaxis"]["title"]["text"] == f"score of a neuron{unit}, log scale"


def test_a_choice_that_is_not_by_score_has_no_cut_off(tmp_path) -> None:
    make(tmp_path)
    worst = [c for c, _ in score_map().top("neuron", LAYERS * NEURONS)[-3:]]
    Selection(anatomy(), tuple(worst)).save(tmp_path / "selection.json")
    page = Page(write_report(tmp_path))
    assert not page.figures["fig-histogram"]["layout"].get("shapes")
    assert "there is no cut-off" in page.text


def test_bars_count_the_chosen_neurons_of_both(tmp_path) -> None:
    make(tmp_path)
    a, b, c = Component("neuron", 0, 7), Component("neuron", 0, 8), Component("neuron", 2, 7)
    Selection(anatomy(), (a, b, c)).save(tmp_path / "selection.json")
    Selection(anatomy(), (a, Component("neuron", 3, 0))).save(tmp_path / "control" / "selection.json")
    page = Page(write_report(tmp_path))
    located, random = page.figures["fig-chosen"]["data"]
    assert located["y"] == [2, 0, 1, 0]
    assert random["y"] == [1, 0, 0, 1]
    assert "3 neurons chosen, in 2 of 4 layers. The random control has 2, 1 of them the same." in page.text


def test_loss_curves_are_drawn_side_by_side(page: Page) -> None:
    located, random = page.figures["fig-loss"]["data"]
    assert (located["x"], located["y"]) == ([1, 2, 3], [3.2, 3.0, 2.5])
    assert (random["name"], random["y"]) == ("random control", [3.3, 3.1, 2.95])
    assert located["line"]["color"] != random["line"]["color"]


def test_what_was_not_scored_is_not_drawn(tmp_path) -> None:
    scores = ScoreMap(anatomy(), neuron=score_map().neuron)
    run = a_run(loss=[], control={})
    page = Page(write_report(make(tmp_path, run, scores)))
    assert list(page.figures) == ["fig-chosen", "fig-histogram"]
    assert "Top 20 neurons" in page.text
    assert "Top 20 heads" not in page.text


def test_the_ranking_shows_scores_and_choice(page: Page) -> None:
    scores = score_map()
    chosen = set(select(scores, "4%", kinds=("head", "neuron")))
    for kind in ("head", "neuron"):
        for component, score in scores.top(kind, 20):
            assert f"{component} {amount(score)} {'yes' if component in chosen else 'no'} " in page.text
    assert f"{scores.top('neuron', 21)[-1][0]} " not in page.text
