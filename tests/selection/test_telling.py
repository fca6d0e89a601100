"""What ``print`` shows of maps, selections and plans is short, whatever their size, and true."""

from __future__ import annotations

import families
import numpy as np
import pytest

from guided_ft import Anatomy, Plan, ScoreMap, Selection, select
from guided_ft.selection.telling import bars, layers

ANATOMY = Anatomy.of(families.make("llama"))


@pytest.fixture(scope="module")
def scores() -> ScoreMap:
    neuron = np.arange(96, dtype=np.float32).reshape(2, 48)
    meta = {"method": "attribution", "retain": {"name": "self"}, "passes": 6, "seconds": 1.24}
    return ScoreMap(ANATOMY, layer=[1, 4], head=np.ones((2, 4)), neuron=neuron, meta=meta)


def test_a_map(scores):
    assert str(scores).splitlines() == [
        "attribution, two-sided: 2 layers, 8 heads, 96 neurons (6 passes, 1.2 s)",
        "  layer   ▃█",
        "          L1 4  L0 1",
        "  head    ██",
        "          L0.H0 1  L0.H1 1  L0.H2 1  L0.H3 1  L1.H0 1",
        "  neuron  ▃█",
        "          L1.N47 95  L1.N46 94  L1.N45 93  L1.N44 92  L1.N43 91",
    ]
    assert str(ScoreMap(ANATOMY, layer=[0, 0])) == "scores: 2 layers\n  layer   ▁▁\n          L0 0  L1 0"


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"), ([-4, 4], "▁█"), ([2, 4], "▅█"), ([-3, -3], "▁▁"), ([0, 0], "▁▁")],
)
def test_bars_begin_at_zero_or_below(values, drawn):
    assert bars(np.array(values, dtype=np.float32)) == drawn


@pytest.mark.parametrize(
    ("numbers", "words"), [([3, 3], "layer 3"), ([4, 3, 5], "layers 3 to 5"), ([3, 9], "2 layers from 3 to 9")]
)
def test_layers_in_words(numbers, words):
    assert layers(numbers) == words


def test_a_selection_and_its_plan(scores):
    chosen = select(scores, "30%", "neuron")
    first, *rest = str(chosen).splitlines()
    assert len(rest) == 2
    assert first == (
        f"{len(chosen)} neurons, in layers 0 to 1: {chosen.num_parameters:,} of {ANATOMY.num_parameters:,} parameters "
        f"({chosen.fraction:.3%})"
    )
    assert rest[0] == "  chosen by method attribution, strategy top, budget 30%"
    assert rest[1] == "  L1.N47 95  L1.N46 94  L1.N45 93  L1.N44 92  L1.N43 91  ..."
    assert len(chosen.text.split()) == len(chosen) > 5
    plan = Plan(chosen, rank=2, lr_scale=3.0)
    head, *told = str(plan).splitlines()
    assert head == (
        f"slice, rank 2: trains {plan.num_parameters:,} of {ANATOMY.num_parameters:,} parameters "
        f"({plan.num_parameters / ANATOMY.num_parameters:.3%}), layer 0 and up, at a learning rate of about "
        f"{plan.learning_rate:.2g}, times 3"
    )
    assert [line.strip() for line in told] == [line.strip() for line in str(chosen).splitlines()]


def test_a_selection_that_was_written_by_hand():
    assert str(Selection.parse("L1.H0 L1.N3", ANATOMY)).splitlines()[1:] == [
        "  chosen by text L1.H0 L1.N3",
        "  L1.H0 L1.N3",
    ]
    assert str(Selection(ANATOMY, ())) == "nothing chosen"
