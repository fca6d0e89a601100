"""The catalogue: methods of one's own, several options of one, and mistakes that are told before any pass."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from families import make
from scoring import same, sums

from guided_ft import localize
from guided_ft.anatomy import Component
from guided_ft.errors import GuidedError
from guided_ft.scorers import catalogue
from guided_ft.scorers.watch.passes import BACKWARD, FORWARD
from guided_ft.scorers.watch.recorder import Recorder
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.task.task import Task


def test_methods_of_ones_own_stand_beside_the_others(monkeypatch):
    class Loudness(Recorder):
        """Mean size of the activation."""

        program = ((FORWARD, 0),)

        def watch(self, scene, step):
            scene.at_components(
                self.kinds,
                lambda kind, i, a: self.add_tokens(
                    (kind, i), scene.split(a, kind).norm(dim=-1), scene.without_first(1)
                ),
            )

        def result(self, scene):
            return self.stack(lambda kind, layer: self.token_mean((kind, layer)))

    def depth(model, anatomy, task, *, kinds, progress=None):
        return ScoreMap(anatomy, layer=np.arange(anatomy.num_layers, dtype=float))

    monkeypatch.setattr(catalogue, "CATALOGUE", dict(catalogue.CATALOGUE))
    catalogue.register("loudness", Loudness)
    catalogue.register("depth", depth, needs_data=False, kinds=("layer",))
    model, task = make("llama"), sums(4)
    maps = localize(model, task, methods=["depth", "loudness", "activation"], retain=None)
    assert maps["depth"].top("layer", 1) == [(Component("layer", 1), 1.0)]
    same(maps["activation"], maps["loudness"])
    assert maps["loudness"].meta["together_with"] == ["activation", "depth"]


def test_one_method_with_several_options():
    model, task = make("llama"), sums(4)
    maps = localize(
        model,
        task,
        methods={"zero": {"method": "attribution"}, "mean": {"method": "attribution", "replace": "mean"}, "fisher": {}},
        retain=None,
    )
    assert list(maps) == ["zero", "mean", "fisher"]
    assert maps["mean"].meta["method"] == "attribution"
    assert maps["mean"].meta["options"] == {"replace": "mean"}
    same(localize(model, task, "attribution", None, replace="mean"), maps["mean"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": "attribution"}, "methods: expected a list of names"),
        ({"methods": []}, "methods: expected a list of names"),
        ({"methods": ["fisher"], "signed": True}, "methods: options go with their method"),
        ({"methods": ["fischer"]}, "method: unknown value 'fischer' (did you mean 'fisher'?)"),
        ({"methods": {"fisher": {"x": 1}}}, "method 'fisher': got an unexpected keyword argument 'x'"),
        ({"method": "contrast", "retain": None}, "contrast: it compares sets (give retain=Task)"),
        ({"method": "contrast", "retain": [sums(1), sums(1)]}, "contrast: it compares with one set, got 2"),
        ({"method": "specificity", "retain": []}, "specificity: retain names no set"),
        ({"method": "specificity", "retain": sums(1), "only": 2}, "only: there is no set 2"),
        ({"method": "specificity", "retain": sums(1), "bar": 1.0}, "bar: expected a share"),
        ({"method": "probe", "retain": None}, "probe: it tells sets apart"),
        ({"method": "probe", "retain": sums(1)}, "probe: a set has fewer than two texts"),
        ({"method": "probe", "retain": sums(2), "ridge": 0.0}, "ridge: expected a number above 0"),
        ({"method": "attribution", "replace": "corrupted", "retain": None}, "has no corrupted prompts"),
        ({"method": "attribution", "replace": "noise"}, "replace: unknown value 'noise'"),
        ({"method": "integrated_gradients", "steps": 0}, "steps: expected a number of strides from 1 up, got 0"),
        ({"method": "integrated_gradients", "rule": "x"}, "rule: unknown value 'x'"),
        ({"method": "integrated_gradients", "baseline": "x"}, "baseline: unknown value 'x'"),
        ({"method": "gates", "penalty": "l2"}, "penalty: unknown value 'l2'"),
        ({"method": "gates", "steps": 0}, "steps: expected a number from 1 up, got 0"),
        ({"method": "movement", "steps": True}, "steps: expected a number from 1 up, got True"),
        ({"method": "movement", "optimizer": "lion"}, "optimizer: unknown value 'lion'"),
        ({"method": "activation", "sinks": 50}, "activation: no text has a token left"),
        ({"method": "sensitivity", "noise": 0.0}, "noise: expected a share above 0"),
        ({"method": "low_rank", "rank": 0}, "rank: expected a number from 1 up"),
        ({"method": "tail_exponent", "tail": 0.0}, "tail: expected a share above 0"),
        ({"method": "eap", "keep": 0}, "keep: 0 leaves none"),
        ({"method": "eap", "keep": 1.5}, "keep: 1.5 leaves none or more than all of"),
        ({"method": "eap", "keep": 10**6}, "leaves none or more than all of"),
        ({"method": "attribution", "combine": "sum"}, "combine: unknown value 'sum'"),
        (
            {"method": "attribution", "retain": [sums(1), sums(1)]},
            "retain: 2 sets, but attribution is held against one",
        ),
        ({"method": "attribution", "against": sums(1)}, "got an unexpected keyword argument 'against'"),
        ({"method": "attribution", "weight": 2.0}, "weight: combine='ratio' has none"),
        ({"method": "attribution", "signed": True}, "signed: a ratio needs scores that are not negative"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    arguments = {"retain": sums(1, first=3)} | arguments
    with pytest.raises(GuidedError) as error:
        localize(make("llama"), sums(2), **arguments)
    assert message in str(error.value)


UNFIT = Task.from_dataset([{"input_ids": [5, 6, 200]}], None, name="unfit")


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "attribution", "retain": UNFIT},
        {"method": "contrast", "retain": UNFIT},
        {"method": "specificity", "retain": [sums(1), UNFIT]},
    ],
    ids=lambda a: a["method"],
)
def test_all_sets_are_checked_before_any_pass(arguments):
    model = make("llama")
    model.register_forward_hook(lambda *_: pytest.fail("it ran"))
    with pytest.raises(GuidedError, match="task 'unfit': example 0 has token id 200, but the model knows 99"):
        localize(model, sums(2), **arguments)


def test_two_sided_difference_and_a_combination_of_ones_own():
    model, task, retain = make("llama"), sums(4), sums(4, first=6)
    target, kept = (localize(model, t, "attribution", None, signed=True) for t in (task, retain))
    both = localize(model, task, "attribution", retain, combine="difference", weight=0.5, signed=True)
    np.testing.assert_allclose(both.head, target.head - 0.5 * kept.head, rtol=1e-5, atol=1e-8)
    assert both.meta["combine"] == "difference"

    def least(a: ScoreMap, b: ScoreMap) -> ScoreMap:
        return ScoreMap(a.anatomy, head=np.minimum(a.head, b.head))

    own = localize(model, task, "attribution", retain, kinds=("head",), combine=least, signed=True)
    np.testing.assert_array_equal(own.head, np.minimum(target.head, kept.head))
    assert own.meta["combine"] == "least"


def test_passes_are_told():
    model, task = make("llama"), sums(6, batch_size=2)
    maps = localize(
        model, task, methods={"attribution": {"replace": "mean"}, "integrated_gradients": {"steps": 4}}, retain=None
    )
    assert maps["attribution"].meta["passes"] == 6
    assert maps["integrated_gradients"].meta["passes"] == 15
    assert FORWARD.order < BACKWARD.order


@pytest.mark.parametrize("method", [name for name, method in catalogue.CATALOGUE.items() if method.compares])
def test_methods_that_need_no_other_set_are_those_with_a_default(method):
    default = inspect.signature(catalogue.CATALOGUE[method].load()).parameters["retain"].default
    assert catalogue.CATALOGUE[method].own_sets == (default is not inspect.Parameter.empty)
