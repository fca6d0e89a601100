"""What is said of a comparison: which rates are picked, what the table and the picture hold, what may be concluded."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import pytest
from reports import RUN, Page, make

from guided_ft.errors import GuidedError
from guided_ft.report import write_report
from guided_ft.report.compared import interval, remarks, table, told
from guided_ft.report.compared_page import shown_comparison, write_comparison
from guided_ft.report.comparison import RECORD, Comparison, Point, Way
from guided_ft.report.front import bent, front, unbeaten
from guided_ft.report.svg import TICKS, round_numbers
from guided_ft.system.files import write_json


def point(rate: float, validation: float, score: float, forgetting: float, **more: Any) -> Point:
    fixed = {"seeds": (0,), "seconds": (10.0,), "peak_bytes": (2_000_000_000,), "file_bytes": 1_500_000}
    values = {"validation": (validation,), "score": (score,), "forgetting": (forgetting,)}
    return Point(**{"rate": rate, **fixed, **values, **more})


def way(name: str, *points: Point, **more: Any) -> Way:
    return Way(name=name, label=f"the {name} way", colour="#123456", trainable=1_000, points=points, **more)


def found(*ways: Way, **more: Any) -> Comparison:
    settings: dict[str, Any] = {
        "name": "sums", "command": "guided-ft compare sums", "model": "tiny", "task": {"name": "sums", "hash": "ab"},
        "examples": {"train": 200, "validation": 50, "test": 100}, "trainer": "sft", "method": "attribution",
        "budget": "0.1%", "steps": 40, "metric": "exact_match", "text": "self", "seeds": (0,), "ways": ways,
        "base": {"score": 4.0, "loss": 3.5, "parameters": 100_000.0},
    }  # fmt: skip
    return Comparison(**settings | more)


GENTLE = point(1e-4, 70, 64, 0.01)
GOOD = point(3e-4, 80, 81, 0.08)
WILD = point(1e-3, 90, 86, 0.7)


def test_rates_are_picked_on_validation_not_on_the_test():
    lucky = point(3e-3, 60, 99, 0.05)
    some = way("located", GENTLE, GOOD, WILD, lucky)
    assert some.best("exact_match") is WILD
    assert some.best("exact_match", 0.1) is GOOD
    assert some.best("exact_match", 0.001) is None


def test_equal_validation_goes_to_what_forgets_less():
    assert way("located", point(1e-3, 80, 81, 0.08), point(1e-4, 80, 79, 0.02)).best("exact_match").rate == 1e-4


def test_equal_validation_goes_to_the_lower_loss_on_it_where_that_was_measured():
    hot, mild, best = (point(r, 80, 81, r, validation_loss=(v,)) for r, v in ((1e-3, 0.9), (1e-4, 0.7), (1e-2, 0.5)))
    some = way("located", hot, mild, best)
    assert some.best("exact_match") is best
    assert some.best("exact_match", 1e-3) is mild
    assert "50 validation examples (ties: by their loss) and" in remarks(found(some))[0]
    older = way("located", hot, point(1e-4, 80, 79, 1e-4))
    assert older.best("exact_match").rate == 1e-4
    assert "50 validation examples (ties: by less forgetting) and" in remarks(found(older))[0]
    assert "ties" not in remarks(found(some, metric="loss"))[0]


def test_of_a_loss_the_lowest_is_best():
    assert way("located", point(1e-4, 2.0, 2.1, 0.0), point(1e-3, 1.0, 1.1, 0.0)).best("loss").rate == 1e-3


def test_a_rate_at_which_a_seed_failed_is_not_picked():
    broken = point(1e-2, 99, 99, 0.0, failed=("step 3: the gradient is not finite",))
    some = found(way("located", GOOD, broken))
    assert some.ways[0].best("exact_match") is GOOD
    assert any("no result at 0.01 (step 3: the gradient is not finite)" in line for line in remarks(some))


def test_the_table_holds_both_figures_and_the_costs():
    rows = dict(table(found(way("located", GENTLE, GOOD, WILD, localize_seconds=15.2))).rows)
    assert rows["the located way"] == [
        "81.0 % (0.0003)", "86.0 % (0.001)", "+0.700", "1.00 %", "10 + 15", "2.00 GB", "1.5 MB",
    ]  # fmt: skip
    assert rows["before"][:3] == ["-", "4.0 %", "0"]


def test_what_was_not_measured_is_a_dash():
    rows = dict(table(found(way("full", note="out of memory"), way("located", WILD))).rows)
    assert rows["the full way"] == ["-", "-", "-", "1.00 %", "-", "-", "-"]
    assert rows["the located way"][0] == "-"
    assert "the full way: out of memory." in remarks(found(way("full", note="out of memory")))


def test_an_edge_of_the_sweep_is_told():
    lines = remarks(found(way("located", GENTLE, GOOD, WILD), way("lora", GENTLE, GOOD, point(1e-3, 75, 99, 0.0))))
    assert [line for line in lines if "wider sweep" in line] == [
        "the located way: its best rate is the highest that was tried, so a wider sweep may do better."
    ]


def test_one_seed_carries_no_test_and_located_is_told_beside_random():
    random = way("random", point(3e-4, 70, 71, 0.05), control="located")
    lines = remarks(found(way("located", GOOD, localize_seconds=9.0), random))
    assert any("n = 1 seed (0): a single seed carries no test" in line for line in lines)
    told_ = next(line for line in lines if line.startswith("the located way against random, of the same budget"))
    assert "at a forgetting of at most 0.1: +10 points" in told_
    # Agresti and Caffo's interval of 81 and 71 of 100, worked out by hand: 1.96 sqrt((.804 .196 + .706 .294) / 102).
    assert f"+-{196 * math.sqrt((0.80392 * 0.19608 + 0.70588 * 0.29412) / 102):.0f} by the 100 test examples" in told_
    assert any(
        "does not show that the map helped" in line
        for line in remarks(found(way("located", GOOD, localize_seconds=9.0)))
    )
    assert not any("the map" in line for line in remarks(found(way("lora", GOOD))))


@pytest.mark.parametrize(
    ("metric", "gap", "axis"),
    [
        ("f1", "+10 points", "f1 on test examples (%)"),
        ("loss", "-10 nats", "loss on test examples (nats)"),
        ("answer_kl", "-10 nats", "answer kl on test examples (nats)"),
        ("bleu", "+10", "bleu on test examples"),
        ("perplexity", "-10", "perplexity on test examples"),
    ],
)
def test_a_score_is_told_in_its_own_unit_if_it_has_one(metric, gap, axis):
    random = way("random", point(3e-4, 70, 71, 0.05), control="located")
    both = found(way("located", GOOD), random, metric=metric)
    (told_,) = (line for line in remarks(both) if "against random" in line)
    assert f"of at most 0.1: {gap} (no interval from so few seeds" in told_
    assert axis in [text.text for text in drawn(front(both).svg, "text")]


def test_three_seeds_are_compared_in_pairs():
    three = {"seeds": (0, 1, 2), "validation": (1.0,) * 3, "forgetting": (0.0,) * 3, "seconds": (1.0,) * 3}
    one = Point(rate=1e-3, score=(80.0, 82.0, 84.0), peak_bytes=(1, 1, 1), **three)
    other = Point(rate=1e-3, score=(79.0, 80.0, 81.0), **three)
    # Leads of 1, 2 and 3: a standard deviation of 1, and t is 4.303 for two degrees of freedom.
    assert interval(found(), one, other, [1.0, 2.0, 3.0]) == f"95 %: +-{4.303 / math.sqrt(3):.3g}, over seeds"
    assert dict(table(found(way("located", one))).rows)["the located way"][0] == "82.0 % [80, 84] (0.001)"


def test_the_front_is_what_nothing_else_beats():
    beaten = point(2e-3, 50, 60, 0.5)
    some = way("located", WILD, beaten, GOOD, GENTLE)
    assert unbeaten(found(some), some) == [GENTLE, GOOD, WILD]


def test_the_axis_is_linear_around_zero_and_then_in_decades():
    assert bent(0.0) == 0
    assert bent(-0.02) == -bent(0.02)
    assert bent(100.0) - bent(10.0) == pytest.approx(1, abs=1e-3)
    assert bent(2e-5) == pytest.approx(2 * bent(1e-5), rel=1e-2)


def drawn(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(tag))


def middle(mark: ElementTree.Element) -> tuple[float, float]:
    """Of the box around a mark."""
    places = [tuple(map(float, place.split(","))) for place in mark.attrib["points"].split()]
    return tuple((min(along) + max(along)) / 2 for along in zip(*places, strict=True))


def test_the_picture_holds_every_rate_and_the_pick_has_a_ring():
    figure = front(found(way("full", GENTLE), way("located", GENTLE, GOOD, WILD)))
    assert figure is not None
    marks = [mark for mark in drawn(figure.svg, "polygon") if mark.find("title") is not None]
    assert [mark.find("title").text for mark in marks] == [
        "the full way, rate 0.0001: exact match 64.0 %, forgetting +0.010 nats",
        "the located way, rate 0.0001: exact match 64.0 %, forgetting +0.010 nats",
        "the located way, rate 0.0003: exact match 81.0 %, forgetting +0.080 nats",
        "the located way, rate 0.001: exact match 86.0 %, forgetting +0.700 nats",
    ]
    assert ["stroke" in mark.attrib for mark in marks] == [True, False, True, False]
    # To scale: places on the picture go with the values, to the left and up for less forgetting and more score.
    (x1, y1), (x2, y2), (x3, y3) = map(middle, marks[1:])
    assert x1 < x2 < x3
    assert y1 > y2 > y3
    assert (x2 - x1) / (x3 - x1) == pytest.approx((bent(0.08) - bent(0.01)) / (bent(0.7) - bent(0.01)), abs=0.01)
    assert (y1 - y2) / (y1 - y3) == pytest.approx((81 - 64) / (86 - 64), abs=0.02)
    joined = [line for line in drawn(figure.svg, "polyline") if line.attrib["stroke"] == "#123456"]
    assert [len(line.attrib["points"].split()) for line in joined] == [1, 3]
    words = [text.text for text in drawn(figure.svg, "text")]
    assert {"the full way", "the located way", "0.1 nats", "exact match on test examples (%)", "80"} <= {*words}
    assert figure.note.startswith("Up and to the left")
    lower = front(found(way("full", GENTLE), metric="loss"))
    assert lower is not None
    assert lower.note.startswith("Down and to the left")
    assert front(found(way("full"))) is None


def test_a_name_cannot_leave_the_picture():
    evil = '"/></svg><script>alert(1)</script>'
    some = way("x", GENTLE).model_copy(update={"label": evil, "colour": evil})
    figure = front(found(some))
    assert figure is not None
    assert not drawn(figure.svg, "script")
    assert [text.text for text in drawn(figure.svg, "text")][-1] == evil


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 100.0, [0, 20, 40, 60, 80, 100]),
        (-0.03, 0.04, [-0.02, 0, 0.02, 0.04]),
        (3.2, 3.2001, None),
    ],
)
def test_ticks_are_round_numbers(low, high, expected):
    found_ = round_numbers(low, high)
    assert found_ == expected or expected is None
    assert 2 <= len(found_) <= TICKS


def test_the_page_is_written_from_the_record_and_escapes_it(tmp_path):
    some = found(way("located", GENTLE, GOOD), name="<script>alert(1)</script>")
    write_json(tmp_path / RECORD, some.model_dump(mode="json"))
    assert Comparison.load(tmp_path / RECORD) == some
    target = write_comparison(tmp_path)
    page = target.read_text()
    assert target.stat().st_size < 50_000, "a page without a library"
    assert "81.0 % (0.0003)" in page
    assert "fig-front" in page
    assert "<script" not in page
    assert shown_comparison(some)["command"] == "guided-ft compare sums"


@pytest.mark.parametrize("damage", [{"ways": 3}, {"steps": "many"}, {"more": 1}])
def test_a_damaged_record_is_one_line(tmp_path, damage):
    write_json(tmp_path / RECORD, found().model_dump(mode="json") | damage)
    with pytest.raises(GuidedError, match=r"compare\.json: .*not what a comparison holds") as error:
        Comparison.load(tmp_path / RECORD)
    assert "\n" not in str(error.value)


def test_the_text_stays_in_the_terminal():
    text = told(found(way("located", GENTLE, GOOD, WILD), way("random", GENTLE), name="a\x1b[31mb"))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert "81.0 % (0.0003)" in text


def test_a_run_shows_the_comparison_in_its_folder_if_it_is_of_the_same_task(tmp_path):
    same = {"model": RUN["model"], "task": {"name": RUN["task"]["name"], "hash": "ab"}}
    assert "fig-front" not in Page(write_report(make(tmp_path))).ids
    write_json(tmp_path / "compare-quick" / RECORD, found(way("located", GOOD), **same).model_dump(mode="json"))
    page = Page(write_report(tmp_path))
    assert "fig-front" in page.ids
    assert "81.0 % (0.0003)" in page.text
    # The whole comparison comes before a quick one, and one of another model is none of this run's.
    write_json(tmp_path / "compare" / RECORD, found(way("located", GENTLE), **same).model_dump(mode="json"))
    assert "64.0 % (0.0001)" in Page(write_report(tmp_path)).text
    for place in ("compare", "compare-quick"):
        write_json(tmp_path / place / RECORD, found(way("located", GOOD)).model_dump(mode="json"))
    assert "fig-front" not in Page(write_report(tmp_path)).ids


@pytest.mark.parametrize(
    "other", [{"budget": "50%"}, {"trainer": "dpo"}, {"mode": "freeze"}, {"method": "wanda"}, {"model": "another"}]
)
def test_a_run_shows_no_comparison_of_other_settings(tmp_path, other):
    same = {"model": RUN["model"], "task": {"name": RUN["task"]["name"], "hash": "ab"}, "mode": RUN["mode"]}
    make(tmp_path)
    write_json(tmp_path / "compare" / RECORD, found(way("located", GOOD), **same | other).model_dump(mode="json"))
    assert "fig-front" not in Page(write_report(tmp_path)).ids
    # A quick one of the run's own settings is shown then.
    write_json(tmp_path / "compare-quick" / RECORD, found(way("located", GOOD), **same).model_dump(mode="json"))
    assert "fig-front" in Page(write_report(tmp_path)).ids
