"""Law 6: nothing is left behind, on any way out."""

from __future__ import annotations

import pytest
import torch
from basic_scorers import METHODS, task_of
from families import make
from untouched import Broken, equal, hooks_of, prepared, state_of

from guided_ft import localize_directions
from guided_ft.scorers import catalogue
from guided_ft.scorers.localize import localize
from guided_ft.scorers.watch.tap import GradientWatch
from guided_ft.task.task import Task


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fault", ["none", "forward", "metric", "interrupt"])
def test_nothing_is_left_behind(method, fault, monkeypatch):
    model, task = prepared("llama"), task_of(2)
    before = state_of(model)
    if fault == "none":
        localize(model, task, method)
    elif not catalogue.find(method).needs_data:
        pytest.skip("this method runs no model")
    else:
        error = KeyboardInterrupt if fault == "interrupt" else Broken
        if fault == "metric":
            monkeypatch.setattr(Task, "quantity", lambda *a: (_ for _ in ()).throw(error()))
        else:

            def fail(module, args):
                raise error

            handle = model.model.layers[1].mlp.register_forward_pre_hook(fail)
            before = state_of(model)
        with pytest.raises(error):
            localize(model, task, method, retain=None)
        assert equal(state_of(model), before)
        if fault != "metric":
            handle.remove()
        return
    assert equal(state_of(model), before)


def test_every_family_is_left_as_it_was(family):
    model = prepared(family)
    before = state_of(model)
    for method in METHODS:
        localize(model, task_of(2), method, kinds=("head",))
    assert equal(state_of(model), before)


def test_directions_leave_every_family_as_it_was(family):
    model = prepared(family)
    before = state_of(model)
    localize_directions(model, task_of(2), "self", max_rank=2)
    assert equal(state_of(model), before)


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("passes", [0, 1], ids=["retained text", "task"])
def test_directions_leave_nothing_behind_on_the_way_out(passes, error):
    model, seen = prepared("llama"), []

    def fail(module, args):
        seen.append(module)
        if len(seen) > passes:
            raise error

    handle = model.model.layers[1].mlp.register_forward_pre_hook(fail)
    before = state_of(model)
    with pytest.raises(error):
        localize_directions(model, task_of(2), task_of(3), max_rank=2)
    assert len(seen) == passes + 1
    assert equal(state_of(model), before)
    handle.remove()


def test_gradient_watch_names_the_culprit_and_cleans_up():
    model = make("llama")
    names = dict(model.named_parameters())
    watch = GradientWatch()
    watch.open(names)
    out = model(input_ids=torch.tensor([[5, 6, 7]])).logits.sum()
    bad = names["model.layers.1.mlp.down_proj.weight"]
    handle = bad.register_hook(lambda g: g * float("nan"))
    out.backward()
    assert watch.bad() == ["model.layers.1.mlp.down_proj.weight"]
    assert watch.bad() == []
    handle.remove()
    watch.close()
    assert hooks_of(model) == 0
