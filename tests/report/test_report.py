"""The report: what it says is computed from the numbers, it escapes everything, and it needs nothing from outside."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from guided_ft.anatomy import Anatomy, Component
from guided_ft.errors import GuidedError
from guided_ft.report import story, write_report
from guided_ft.report.facts import amount, checked, share
from guided_ft.report.verdict import verdict
from guided_ft.selection.budget import select
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.selection.selection import Selection
from guided_ft.system.files import write_json

LAYERS, HEADS, GROUPS, NEURONS, HEAD_DIM, WIDTH = 4, 6, 3, 40, 4, 24
FIGURES = ["fig-loss", "fig-heads", "fig-layers", "fig-chosen", "fig-histogram"]
EVIL = "<script>alert(1)</script>"


def anatomy(num_parameters: int = 40_000) -> Anatomy:
    rows, kv = HEADS * HEAD_DIM, GROUPS * HEAD_DIM
    shapes = {
        "self_attn.q_proj": (rows, WIDTH),
        "self_attn.k_proj": (kv, WIDTH),
        "self_attn.v_proj": (kv, WIDTH),
        "self_attn.o_proj": (WIDTH, rows),
        "mlp.gate_proj": (NEURONS, WIDTH),
        "mlp.up_proj": (NEURONS, WIDTH),
        "mlp.down_proj": (WIDTH, NEURONS),
    }
    data = {
        "model_type": "llama",
        "prefix": "model.layers",
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "num_groups": GROUPS,
        "num_neurons": NEURONS,
        "head_dim": HEAD_DIM,
        "num_parameters": num_parameters,
        "shapes": shapes,
        "parameters": {f"{name}.weight": a * b for name, (a, b) in shapes.items()},
    }
    return Anatomy.from_dict(data)


def score_map(**arrays: np.ndarray | None) -> ScoreMap:
    rng = np.random.default_rng(0)
    drawn = {
        "layer": rng.lognormal(0, 1, LAYERS),
        "head": rng.lognormal(0, 1, (LAYERS, HEADS)),
        "neuron": rng.lognormal(0, 1, (LAYERS, NEURONS)),
    }
    return ScoreMap(anatomy(), **{**drawn, **arrays}, meta={"method": "attribution", "retain": {"name": "self"}})


RUN: dict[str, Any] = {
    "kind": "run",
    "version": 1,
    "name": "quickstart",
    "command": "guided-ft run quickstart seed=0",
    "model": "smollm2-135m-instruct",
    "task": {"name": "chain_sum", "train": 800, "test": 100, "hash": "ab12", "sample": {"prompt": "42 + 25 ="}},
    "method": "attribution",
    "retain": "self",
    "mode": "slice",
    "trainer": "sft",
    "budget": "0.1%",
    "trainable": 132_100,
    "total": 134_515_008,
    "selected": {"layer": 0, "head": 1, "neuron": 34},
    "expected_random": None,
    "before": {"exact_match": 0.0, "examples": 100},
    "after": {"exact_match": 90.0, "examples": 100},
    "control": {
        "random": {
            "trainable": 132_100,
            "after": {"exact_match": 40.0, "examples": 100},
            "retention": {"loss": 3.75, "kl": 0.031},
            "loss": [[1, 3.3], [2, 3.1], [3, 2.95]],
            "seconds": 61.0,
        }
    },
    "retention": {"text": "self", "before": {"loss": 3.7, "kl": 0.0}, "after": {"loss": 3.72, "kl": 0.013}},
    "loss": [[1, 3.2], [2, 3.0], [3, 2.5]],
    "frozen": {"identical": 272, "total": 272},
    "reload": {"max_difference": 0.0},
    "checks": [{"name": "frozen tensors are bit-identical", "ok": True, "detail": "272 of 272"}],
    "seconds": {"load": 2.0, "localize": 9.5, "train": 50.0},
    "peak_bytes": 3_000_000_000,
    "versions": {"guided_ft": "0.1.0", "torch": "2.13.0"},
    "machine": "2 x CPU",
    "seed": 0,
    "samples": [{"prompt": "42 + 25 =", "expected": "67", "before": "The answer", "after": "67", "control": "66"}],
}


def a_run(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(RUN) | changes


def scored(after: float, random: float | None, examples: int = 100, **changes: Any) -> dict[str, Any]:
    """A run whose exact match is ``after``, and ``random`` in the control."""
    run = a_run(**changes)
    run["after"] = {"exact_match": after, "examples": examples}
    if random is None:
        run["control"] = {}
    else:
        run["control"]["random"]["after"] = {"exact_match": random, "examples": examples}
    return run


def make(folder: Path, run: dict[str, Any] | None = None, scores: ScoreMap | None = None, control: bool = True) -> Path:
    """Fill a run folder; returns it."""
    scores = scores or score_map()
    kinds = [kind for kind in ("head", "neuron") if kind in scores.kinds]
    write_json(folder / "run.json", run or RUN)
    scores.save(folder / "scores.safetensors")
    select(scores, "4%", kinds).save(folder / "selection.json")
    if control:
        select(scores, "4%", kinds, "random", seed=1).save(folder / "control" / "selection.json")
    return folder


class Page(HTMLParser):
    """A page as a browser would take it apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: set[str] = set()
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._texts: list[str] = []
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", " ".join(self._texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids |= {value or "" for name, value in attrs if name == "id"}

    def handle_data(self, data: str) -> None:
        last = self.tags[-1] if self.tags else ""
        (self.scripts if last == "script" and data.strip() else self.styles if last == "style" else self._texts).append(
            data
        )

    def handle_endtag(self, tag: str) -> None:
        self.tags.append("/" + tag)

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """What plotly is given, by the id of the figure."""
        listed = re.search(r"const figures = (\[.*\]);\n", self.scripts[-1])
        assert listed, "the page gives plotly nothing to draw"
        return {figure["id"]: figure for figure in json.loads(listed[1])}


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(write_report(make(tmp_path)))


# -- the verdict -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("after", "random", "examples", "outcome", "words"),
    [
        (90, 40, 100, "win", "the map beat a random choice of the same size by 50 points"),
        (52, 48, 100_000, "win", "the map beat a random choice of the same size by 4 points"),
        (52, 48, 100, "unclear", "by 4 points, but 100 examples cannot tell that from chance (95 %: +-14 points)"),
        (100, 96, 20, "unclear", "cannot tell that from chance"),
        (50, 49, 100_000, "tie", "the map did not beat a random choice of the same size here (a tie)"),
        (50, 48, 100_000, "tie", "the map did not beat a random choice of the same size here (a tie)"),
        (48, 50, 100_000, "tie", "the map did not beat a random choice of the same size here (a tie)"),
        (40, 47.5, 100, "loss", "the map did not beat a random choice of the same size here: random was better by 7.5"),
        (50, None, 100, "alone", "no random control was run, so this does not show that the map helped"),
    ],
)
def test_the_verdict_says_no_more_than_the_numbers(tmp_path, after, random, examples, outcome, words) -> None:
    run = scored(after, random, examples)
    judged = verdict(checked(run))
    assert judged.outcome == outcome
    assert words in judged.judgement
    assert words in " ".join(story(run).split())
    said = words.replace("+-", "±")
    assert said[1:] in Page(write_report(make(tmp_path, run))).text


def test_the_facts_of_the_verdict() -> None:
    facts = verdict(checked(a_run())).facts
    assert facts == (
        "trained 0.098 % of the parameters; exact match 0 -> 90 %; random selection of the same size: 40 %; "
        "general loss +0.020 nats (random: +0.050)"
    )


def test_training_that_did_not_help_is_told_first() -> None:
    run = scored(30, 10, before={"exact_match": 30.0})
    assert verdict(checked(run)).judgement.startswith("training did not improve exact match; the map")
    assert "did not improve" not in verdict(checked(scored(31, 10, before={"exact_match": 30.0}))).judgement


def test_a_control_of_another_size_is_not_called_the_same_size() -> None:
    run = scored(90, 40)
    run["control"]["random"]["trainable"] = 100_000
    judged = str(verdict(checked(run)))
    assert "the same size" not in judged
    assert "of the same budget (100,000 parameters)" in judged


def test_a_failed_check_is_in_the_verdict_and_in_the_table(tmp_path) -> None:
    checks = [{"name": "one", "ok": True}, {"name": "two", "ok": False, "detail": "3 of 4"}]
    run = a_run(checks=checks)
    assert verdict(checked(run)).judgement.endswith("; 1 of 2 checks FAILED")
    page = Page(write_report(make(tmp_path, run)))
    assert "✓ passed one" in page.text
    assert "✗ FAILED two 3 of 4" in page.text
    assert re.search(r"ok +one\n +FAILED two: 3 of 4\n", story(run))


@pytest.mark.parametrize(("after", "random", "outcome"), [(1.0, 2.0, "win"), (2.0, 1.0, "loss"), (1.0, 1.01, "tie")])
def test_less_is_better_for_a_loss(after: float, random: float, outcome: str) -> None:
    run = a_run(before={"eval_loss": 3.0}, after={"eval_loss": after})
    run["control"]["random"]["after"] = {"eval_loss": random}
    assert verdict(checked(run)).outcome == outcome
    assert "%" not in verdict(checked(run)).judgement


def test_a_run_without_metrics_claims_nothing() -> None:
    run = a_run(before={}, after={"examples": 100})
    assert "no metric was measured" in story(run)
    assert "examples" not in story(run).split("\n\n")[1]


# -- what may be absent ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("control", [{}, None])
def test_without_a_control_there_is_no_control_column(tmp_path, control) -> None:
    run = a_run(control=control)
    del run["samples"][0]["control"]
    page = Page(write_report(make(tmp_path, run, control=False)))
    said = (page.text + " ".join(story(run).split())).lower()
    assert said.count("random control") == said.count("no random control was run") > 0
    assert [trace["name"] for trace in page.figures["fig-loss"]["data"]] == ["located"]
    assert [trace["name"] for trace in page.figures["fig-chosen"]["data"]] == ["located"]


@pytest.mark.parametrize("drop", [True, False])
def test_without_retention_nothing_is_said_of_it(tmp_path, drop: bool) -> None:
    run = a_run(retention=None)
    if drop:
        del run["retention"]
    page = Page(write_report(make(tmp_path, run)))
    for text in (page.text, story(run)):
        assert "general" not in text
        assert "KL" not in text
        assert "90.0 %" in text


def test_any_numeric_metric_is_shown(tmp_path) -> None:
    state = {"preference_accuracy": 61.5, "exact_match": 12.0, "margin": 0.25, "note": "x", "ok": True, "examples": 64}
    run = a_run(trainer="dpo", before=state | {"preference_accuracy": 48.0}, after=state)
    run["control"]["random"]["after"] = state | {"preference_accuracy": 60.0}
    page = Page(write_report(make(tmp_path, run)))
    assert "preference accuracy 48 → 61.5 %" in page.text
    assert "preference accuracy 48.0 % 61.5 % 60.0 %" in page.text
    assert "margin 0.250 0.250 0.250" in page.text
    assert verdict(checked(run)).outcome == "tie"
    table = story(run).split("\n\n")[1]
    assert "exact match" in table
    assert "note" not in table
    assert "ok" not in table.split()


def test_the_table_holds_retention_and_sizes(page: Page) -> None:
    assert "before after random control exact match 0.0 % 90.0 % 40.0 %" in page.text
    assert "general loss (nats per token) 3.700 3.720 3.750" in page.text
    assert "rise of general loss - +0.020 +0.050" in page.text
    assert "KL from the base (nats per token) 0 0.013 0.031" in page.text
    assert "trainable parameters 0 132,100 132,100" in page.text


def test_setup_tells_how_to_repeat_it(page: Page) -> None:
    for words in ("ab12", "2 x CPU", "torch 2.13.0", "3.00 GB", "800 to train, 100 to test", "1 head, 34 neurons"):
        assert words in page.text
    assert "total 61.5 s" in page.text
    assert "<code>guided-ft run quickstart seed=0</code>" in page.source


def test_answers_are_cut_and_limited(tmp_path) -> None:
    samples = [{"prompt": f"p{i}.", "expected": "x" * 2000} for i in range(50)]
    page = Page(write_report(make(tmp_path, a_run(samples=samples))))
    assert "p19." in page.text
    assert "p20." not in page.text
    assert "x" * 500 + " ..." in page.text
    assert "x" * 501 not in page.text


# -- safety ------------------------------------------------------------------------------------------------------------
def poisoned(value: Any) -> Any:
    """The same data with a script in every string, and in every key that is not ours."""
    if isinstance(value, dict):
        return {key: poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_every_string_is_escaped(tmp_path) -> None:
    run = poisoned(RUN) | {"kind": "run"}
    for key in ("before", "after"):
        run[key][f"{EVIL}_accuracy"] = 1.5
    run["control"][EVIL] = copy.deepcopy(run["control"]["random"])
    run["versions"][EVIL] = run["seconds"][EVIL] = 1.0
    run["task"]["sample"][EVIL] = EVIL
    scores = score_map()
    make(tmp_path, run)
    chosen = select(scores, "4%")
    Selection(chosen.anatomy, chosen.components, poisoned(chosen.how)).save(tmp_path / "selection.json")
    page = Page(write_report(tmp_path))
    assert EVIL not in page.source.replace(page.scripts[0], "")
    assert page.tags.count("script") == 2
    assert page.text.count(EVIL) > 20, "the strings themselves are shown as text"
    names = [trace.get("name", "") for figure in page.figures.values() for trace in figure["data"]]
    assert not any("<" in name for name in names), "plotly reads HTML in its labels"
    assert any("&lt;script&gt;" in name for name in names)


def test_the_page_needs_nothing_from_outside(page: Page) -> None:
    assert not [a for a in page.attributes if a[1] in ("src", "href", "srcset", "action", "data", "poster")]
    assert not [tag for tag in page.tags if tag in ("link", "iframe", "img", "object", "base")]
    assert page.styles
    assert not re.search(r"url\(|@import|https?:", "".join(page.styles))
    assert "http" not in page.scripts[-1]
    assert page.source.count("plotly.js v") == 1
    policy = next(v for tag, name, v in page.attributes if name == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_the_story_cannot_move_the_cursor() -> None:
    run = a_run(name="a\x1b[31m\nb", command="guided-ft run x\r\x1b]0;evil\x07", model="m")
    run["control"]["r\x1b"] = run["control"]["random"]
    assert all(c == "\n" or c.isprintable() for c in story(run))


# -- the figures -------------------------------------------------------------------------------------------------------
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
    chosen = set(select(scores, "4%"))
    for kind in ("head", "neuron"):
        for component, score in scores.top(kind, 20):
            assert f"{component} {amount(score)} {'yes' if component in chosen else 'no'} " in page.text
    assert f"{scores.top('neuron', 21)[-1][0]} " not in page.text


# -- the text ----------------------------------------------------------------------------------------------------------
def test_the_story_fits_a_terminal() -> None:
    told = story(a_run())
    lines = told.splitlines()
    assert lines[0] == "quickstart"
    assert 12 <= len(lines) <= 20
    assert max(map(len, lines)) <= 110
    table = told.split("\n\n")[1].splitlines()
    assert len({len(line) for line in table}) == 1, "the columns are flush right"
    assert table[0].split() == ["before", "after", "random", "control"]
    assert table[1].split() == ["exact", "match", "0.0", "%", "90.0", "%", "40.0", "%"]
    assert "load 2.0  localize 9.5  train 50.0  total 61.5" in told
    assert lines[-1].endswith("guided-ft run quickstart seed=0")


def test_the_command_is_never_broken() -> None:
    command = "guided-ft run quickstart " + " ".join(f"key{i}=value" for i in range(40))
    assert story(a_run(command=command)).splitlines()[-1].endswith(command)


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(132_100, 134_515_008, "0.098 %"), (1, 3, "33.3 %"), (0, 9, "0 %"), (1, 1, "100 %"), (195, 10_000, "1.95 %")],
)
def test_shares_keep_their_digits(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


# -- files and errors --------------------------------------------------------------------------------------------------
def test_the_report_is_written_atomically(tmp_path, monkeypatch) -> None:
    path = write_report(make(tmp_path))
    assert path == tmp_path / "report.html"
    before, names = path.read_bytes(), sorted(os.listdir(tmp_path))
    write_json(tmp_path / "run.json", a_run(name="another"))

    def fail(*_: Any) -> None:
        raise OSError("the disk went away")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="went away"):
            write_report(tmp_path)
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == names
    assert b"another" in write_report(tmp_path).read_bytes()


def test_the_same_run_gives_the_same_page(tmp_path) -> None:
    first = write_report(make(tmp_path)).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def error_of(folder: Path) -> str:
    with pytest.raises(GuidedError) as caught:
        write_report(folder)
    assert not (folder / "report.html").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_without_a_run_is_named(tmp_path) -> None:
    assert error_of(tmp_path) == f"{tmp_path}: no run.json here (give the folder of a run)"


@pytest.mark.parametrize("text", ['{"kind": "plan"}', "[]", "{", ""])
def test_what_is_not_a_run_file_is_refused(tmp_path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert error_of(tmp_path).startswith(f"{tmp_path / 'run.json'}: not ")


NEEDED = ["name", "command", "model", "task", "method", "mode", "trainable", "total", "before", "after", "seconds"]


@pytest.mark.parametrize("key", NEEDED)
def test_an_unfinished_run_is_told_apart(tmp_path, key: str) -> None:
    run = a_run()
    del run[key]
    line = f"run.json: '{key}' is missing (the run has not finished; run it again to continue)"
    assert error_of(make(tmp_path, run)).endswith(line)
    with pytest.raises(GuidedError, match=f"^{re.escape(line)}$"):
        story(run)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"after": [1]}, "'after' is not an object"),
        ({"trainable": "many"}, "'trainable' is not a whole number"),
        ({"trainable": True}, "'trainable' is not a whole number"),
        ({"total": 0}, "'total' is 0 (a model has parameters)"),
        ({"name": 3}, "'name' is not text"),
        ({"loss": {}}, "'loss' is not a list"),
        ({"loss": [[1, "x"]]}, "'loss' is not a list of [step, loss]"),
        ({"loss": [[1, 2, 3]]}, "'loss' is not a list of [step, loss]"),
        ({"checks": ["x"]}, "'checks[]' is not an object"),
        ({"samples": [1]}, "'samples[]' is not an object"),
        ({"control": {"random": 1}}, "'control.random' is not an object"),
        ({"control": {"random": {"after": [1]}}}, "'control.random.after' is not an object"),
        ({"control": {"random": {"loss": [1]}}}, "'control.random.loss' is not a list of [step, loss]"),
        ({"retention": {"after": 3}}, "'retention.after' is not an object"),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(GuidedError, match=f"^run.json: {re.escape(line)}$"):
        story(a_run(**changes))


@pytest.mark.parametrize("key", ["total", "trainable"])
def test_a_number_beyond_all_floats_is_refused(tmp_path, key: str) -> None:
    line = f"{tmp_path / 'run.json'}: not valid JSON (a number of 400 digits)"
    assert error_of(make(tmp_path, a_run(**{key: 10**399}))) == line


@pytest.mark.parametrize("name", ["scores.safetensors", "scores.json", "selection.json"])
def test_a_missing_file_is_named(tmp_path, name: str) -> None:
    (make(tmp_path) / name).unlink()
    assert f"{name}: cannot be read" in error_of(tmp_path)


@pytest.mark.parametrize("name", ["selection.json", "control/selection.json"])
def test_files_of_two_models_are_not_mixed(tmp_path, name: str) -> None:
    make(tmp_path)
    Selection(anatomy(50_000), (Component("neuron", 0, 0),)).save(tmp_path / name)
    assert error_of(tmp_path) == f"{tmp_path / name}: of another model than scores.safetensors"


def test_the_report_imports_no_torch() -> None:
    code = "import sys, guided_ft.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
