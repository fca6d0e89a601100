"""Faithfulness: the curve equals a model whose other components were cut out of the weights."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from families import make
from naive_ablation import task_of

from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError
from guided_ft.scorers.faithfulness import FRACTIONS, faithfulness
from guided_ft.scorers.localize import localize
from guided_ft.selection import combine
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.task.task import Task

FEW = (0.1, 0.25, 0.5, 0.8, 1.0)


def cut(family, anatomy, kind, kept):
    """The family's model with the columns of all other heads or neurons set to zero."""
    model = make(family)
    with torch.no_grad():
        for c in anatomy.components(kind):
            if c not in kept:
                name = anatomy.out_module(c.layer) if kind == "head" else anatomy.down_module(c.layer)
                part = next(s for s in anatomy.slices(c) if s.module == name and s.axis == 1 - anatomy.rows_axis)
                model.get_submodule(name).weight.index_fill_(part.axis, torch.tensor(part.index), 0)
    return model


def metric(model, task):
    with torch.no_grad():
        return -float(torch.cat([task.loss(task.quantity(model, b)) for b in task.batches()]).mean())


@pytest.mark.parametrize("kind", ["head", "neuron"])
def test_curve_equals_cutting_the_weights(family, kind):
    model, task = make(family), task_of(4)
    anatomy = Anatomy.of(model)
    scores = localize(model, task, "attribution", retain=None, kinds=(kind,))
    found = faithfulness(scores, model, task, kind=kind, fractions=FEW, draws=2, replace="zero")
    full, empty = metric(model, task), metric(cut(family, anatomy, kind, ()), task)
    assert (found.full, found.empty) == pytest.approx((full, empty), abs=1e-4)
    size = scores.of(kind).size
    for at, fraction in enumerate(FEW):
        best = [c for c, _ in scores.top(kind, round(fraction * size))]
        rest = [c for c in anatomy.components(kind) if c not in best]
        for chosen, curve in ((best, found.curve), (rest, found.without)):
            value = metric(cut(family, anatomy, kind, chosen), task)
            assert curve[at] * (full - empty) == pytest.approx(value - empty, abs=5e-4)


@pytest.mark.parametrize("replace", ["mean", "resample", "corrupted"])
@pytest.mark.parametrize("kind", ["layer", "head"])
def test_one_missing_component_is_its_ablation(kind, replace):
    """All but one kept: the metric falls by the exact effect of that one."""
    model, task = make("gemma3_text", layers=3), task_of(5)
    anatomy = Anatomy.of(model)
    exact = localize(model, task, "ablation", retain=None, kinds=(kind,), replace=replace, signed=True)
    found = faithfulness(exact, model, task, kind=kind, fractions=(1 - 1 / exact.of(kind).size, 1.0), replace=replace)
    lost = (1 - found.curve[0]) * (found.full - found.empty)
    assert lost == pytest.approx(float(exact.of(kind).min()), abs=1e-4)
    assert len(anatomy.components(kind)) - found.counts[0] == 1


def test_ends_and_areas():
    model, task = make("llama", layers=4), task_of(4)
    scores = localize(model, task, "ablation", retain=None, kinds=("head",))
    found = faithfulness(scores, model, task, draws=3, replace="zero")
    assert found.fractions == list(FRACTIONS)
    assert found.counts == [0, 0, 0, 0, 0, 1, 2, 3, 8, 16]
    assert found.curve[:5] == [0.0] * 5
    assert found.curve[-1] == found.band["low"][-1] == 1.0
    assert found.without[-1] == 0.0
    assert found.cpr == pytest.approx(np.trapezoid(found.curve, FRACTIONS))
    assert found.cmd == pytest.approx(np.trapezoid(np.abs(1 - np.array(found.curve)), FRACTIONS))
    assert all(
        low <= mean <= high for low, mean, high in zip(*(found.band[k] for k in ("low", "mean", "high")), strict=True)
    )
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_batches_and_draws():
    model, task = make("opt"), task_of(5)
    scores = localize(model, task, "random", kinds=("neuron",))
    a, b, c = (
        faithfulness(scores, model, Task(task.examples, batch_size=n), kind="neuron", fractions=FEW, draws=2, seed=seed)
        for n, seed in ((5, 0), (2, 0), (5, 1))
    )
    assert a.curve == pytest.approx(b.curve, abs=1e-3)
    assert a.band["mean"] == pytest.approx(b.band["mean"], abs=1e-3)
    assert a.curve == pytest.approx(c.curve, abs=1e-6)
    assert a.band["mean"][:-1] != pytest.approx(c.band["mean"][:-1], abs=1e-3)


def test_it_says_whether_the_examples_were_held_out():
    model, task = make("llama"), task_of(4)
    scores = localize(model, task, "attribution", retain=None, kinds=("head",))
    other = Task.from_dataset(tiny.sums(9)[5:], tiny.tokenizer())
    assert [faithfulness(scores, model, t, fractions=(0.5,), draws=1).held_out for t in (task, other)] == [False, True]
    seen = (task.take(2), replace(task, corrupted=None), replace(task, token_mean=True))
    mixed = Task((*other.examples, *task.examples[:1]))
    again = combine.difference(
        *(localize(model, t, "attribution", retain=None, kinds=("head",)) for t in (task, other))
    )
    for found, parts in ((scores, (*seen, mixed)), (again, (*seen, mixed, other))):
        assert not any(faithfulness(found, model, t, fractions=(0.5,), draws=1).held_out for t in parts)
    older = ScoreMap.of_arrays(scores.anatomy, {"head": scores.head}, {"task": scores.meta["task"]})
    assert not faithfulness(older, model, task, fractions=(0.5,), draws=1).held_out
    assert faithfulness(scores, model, task, fractions=(0.5,)).replace == "corrupted"
    assert faithfulness(scores, model, other, fractions=(0.5,)).replace == "mean"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.5, 0.1)}, "fractions: expected ascending shares"),
        ({"fractions": ()}, "fractions: expected ascending shares"),
        ({"draws": 0}, "draws: expected 1 or more"),
        ({"kind": "neuron"}, "kinds: this map has no scores for 'neuron'"),
        ({"replace": "noise"}, "replace: unknown value 'noise'"),
        ({"replace": "corrupted"}, "has no corrupted prompts"),
    ],
)
def test_bad_arguments_are_named(options, message):
    model, task = make("llama"), Task.from_dataset(tiny.sums(2), tiny.tokenizer())
    scores = ScoreMap(Anatomy.of(model), head=np.ones((2, 4)))
    with pytest.raises(GuidedError) as error:
        faithfulness(scores, model, task, **options)
    assert message in str(error.value)


def test_components_that_do_nothing_are_refused():
    model, task = make("llama"), Task.from_dataset(tiny.sums(2), tiny.tokenizer())
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    with pytest.raises(GuidedError, match=r"replacing every head .zero. leaves the metric at"):
        faithfulness(ScoreMap(Anatomy.of(model), head=np.ones((2, 4))), model, task, replace="zero")


def test_rows_and_maps_of_other_models_are_refused():
    model = make("llama")
    scores, other = (ScoreMap(Anatomy.of(m), head=np.ones((2, 4))) for m in (model, make("gpt2")))
    with pytest.raises(GuidedError, match="task: a list is no Task"):
        faithfulness(scores, model, tiny.sums(2))
    with pytest.raises(GuidedError, match="faithfulness: the map is of another model"):
        faithfulness(other, model, Task.from_dataset(tiny.sums(2), tiny.tokenizer()))
