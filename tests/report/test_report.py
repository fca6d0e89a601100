"""The report: what it says is computed from the numbers, it escapes everything, and it needs nothing from outside."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from reports import RUN, Page, a_run, make, score_map

from guided_ft.report import story, write_report
from guided_ft.report.facts import share
from guided_ft.report.record import checked
from guided_ft.report.verdict import verdict
from guided_ft.selection.budget import select
from guided_ft.selection.selection import Selection

EVIL = "<script>alert(1)</script>"


def scored(after: float, random: float | None, examples: int = 100, **changes: Any) -> dict[str, Any]:
    """A run whose exact match is ``after``, and ``random`` in the control."""
    run = a_run(**changes)
    run["after"] = {"exact_match": after, "examples": examples}
    if random is None:
        run["control"] = {}
    else:
        run["control"]["random"]["after"] = {"exact_match": random, "examples": examples}
    return run


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
    assert words in " ".join(story(checked(run)).split())
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
    assert re.search(r"ok +one\n +FAILED two: 3 of 4\n", story(checked(run)))


@pytest.mark.parametrize(
    ("after", "random", "outcome"), [(1.0, 2.0, "unclear"), (2.0, 1.0, "loss"), (1.0, 1.01, "tie")]
)
def test_less_is_better_for_a_loss(after: float, random: float, outcome: str) -> None:
    run = a_run(before={"eval_loss": 3.0}, after={"eval_loss": after})
    run["control"]["random"]["after"] = {"eval_loss": random}
    assert verdict(checked(run)).outcome == outcome
    assert "%" not in verdict(checked(run)).judgement


@pytest.mark.parametrize(
    ("metric", "scores", "gap"),
    [("loss", (2.0, 1.0, 1.03), "0.03"), ("bleu", (1.0, 30.0, 20.0), "10"), ("f1", (0.0, 52.0, 48.0), "4 points")],
)
def test_of_a_metric_without_an_interval_nothing_is_said_to_be_beaten(metric, scores, gap) -> None:
    before, after, random = ({metric: score, "examples": 10} for score in scores)
    run = a_run(before=before, after=after)
    run["control"]["random"]["after"] = random
    judged = verdict(checked(run))
    assert judged.outcome == "unclear"
    assert "beat" not in judged.judgement
    assert f"ahead of a random choice of the same size by {gap}" in judged.judgement
    assert "no interval is known" in judged.judgement


def test_a_run_without_metrics_claims_nothing() -> None:
    run = a_run(before={}, after={"examples": 100})
    assert "no metric was measured" in story(checked(run))
    assert "examples" not in story(checked(run)).split("\n\n")[1]


def test_without_a_control_there_is_no_control_column(tmp_path) -> None:
    run = a_run(control={})
    del run["samples"][0]["control"]
    page = Page(write_report(make(tmp_path, run, control=False)))
    said = (page.text + " ".join(story(checked(run)).split())).lower()
    assert said.count("random control") == said.count("no random control was run") > 0
    assert [trace["name"] for trace in page.figures["fig-loss"]["data"]] == ["located"]
    assert [trace["name"] for trace in page.figures["fig-chosen"]["data"]] == ["located"]


@pytest.mark.parametrize("drop", [True, False])
def test_without_retention_nothing_is_said_of_it(tmp_path, drop: bool) -> None:
    run = a_run(retention=None)
    if drop:
        del run["retention"]
    page = Page(write_report(make(tmp_path, run)))
    for text in (page.text, story(checked(run))):
        assert "general" not in text
        assert "KL" not in text
        assert "90.0 %" in text


def test_any_metric_is_shown(tmp_path) -> None:
    state = {"preference_accuracy": 61.5, "exact_match": 12.0, "margin": 0.25, "examples": 64}
    run = a_run(trainer="dpo", before=state | {"preference_accuracy": 48.0}, after=state)
    run["control"]["random"]["after"] = state | {"preference_accuracy": 60.0}
    page = Page(write_report(make(tmp_path, run)))
    assert "preference accuracy 48 → 61.5 %" in page.text
    assert "preference accuracy 48.0 % 61.5 % 60.0 %" in page.text
    assert "margin 0.250 0.250 0.250" in page.text
    assert verdict(checked(run)).outcome == "tie"
    table = story(checked(run)).split("\n\n")[1]
    assert "exact match" in table
    assert "examples" not in table


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


@pytest.mark.parametrize(
    ("known", "row"),
    [
        ({}, "retain self budget"),
        ({"retain": None}, "retain none (one-sided map) budget"),
        ({"retain": None, "mapped": False}, "method attribution budget"),
    ],
)
def test_the_retain_set_is_told_where_a_map_was_made(tmp_path, known: dict[str, Any], row: str) -> None:
    assert row in Page(write_report(make(tmp_path, a_run(**known)))).text


def test_answers_are_cut_and_limited(tmp_path) -> None:
    samples = [{"prompt": f"p{i}.", "expected": "x" * 2000} for i in range(50)]
    page = Page(write_report(make(tmp_path, a_run(samples=samples))))
    assert "p19." in page.text
    assert "p20." not in page.text
    assert "x" * 500 + " ..." in page.text
    assert "x" * 501 not in page.text


def poisoned(value: Any) -> Any:
    """The same data with a script in every string, and in every key that is not ours."""
    if isinstance(value, dict):
        return {key: poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_every_string_is_escaped(tmp_path) -> None:
    run = poisoned(RUN) | {"kind": "run", "version": 1}
    for key in ("before", "after"):
        run[key][f"{EVIL}_accuracy"] = 1.5
    run["control"][EVIL] = copy.deepcopy(run["control"]["random"])
    run["versions"][EVIL], run["seconds"][EVIL] = EVIL, 1.0
    run["task"]["sample"][EVIL] = EVIL
    scores = score_map()
    make(tmp_path, run)
    chosen = select(scores, "4%", kinds=("head", "neuron"))
    Selection(chosen.anatomy, chosen.components, poisoned(chosen.how.to_dict())).save(tmp_path / "selection.json")
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
    assert all(c == "\n" or c.isprintable() for c in story(checked(run)))


def test_the_story_fits_a_terminal() -> None:
    told = story(checked(a_run()))
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
    assert story(checked(a_run(command=command))).splitlines()[-1].endswith(command)


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(132_100, 134_515_008, "0.098 %"), (1, 3, "33.3 %"), (0, 9, "0 %"), (1, 1, "100 %"), (195, 10_000, "1.95 %")],
)
def test_shares_keep_their_digits(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text
