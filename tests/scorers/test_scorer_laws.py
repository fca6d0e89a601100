"""Laws that every scorer of the catalogue obeys, on every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import make
from scoring import DATA, METHODS, OPTIONS, SETS, all_methods, pairs, preferences, same, sums
from untouched import equal, prepared, state_of

from guided_ft import localize
from guided_ft.anatomy import KINDS, Anatomy
from guided_ft.errors import GuidedError
from guided_ft.scorers import catalogue
from guided_ft.scorers.watch.listen import listen
from guided_ft.scorers.watch.recorder import Recorder
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.task.task import Task

TRAINED = ("gradient", "gates", "movement")
"""What these do depends on the batches by definition."""

BY_ORDER = ("probe",)
"""Which examples it learns from and which it is asked about goes by their order."""

MAY_BE_FLAT = {"execution_depth", "probe", "eap"}
"""An answer that never appears, probes that are all right, a circuit that is empty."""


def kinds_of(name: str) -> tuple[str, ...]:
    return OPTIONS.get(name, {}).get("kinds", catalogue.CATALOGUE[name].kinds)


def run(model, task: Task, against: Task, skip: tuple[str, ...] = (), retain=None) -> dict[str, ScoreMap]:
    """All methods: those that score few kinds only, for the time it takes, by themselves."""
    narrow = tuple(name for name in METHODS if kinds_of(name) != catalogue.CATALOGUE[name].kinds and name not in skip)
    wanted = all_methods(against, skip=(*skip, *narrow))
    maps = localize(model, task, methods=wanted, retain=retain)
    for name in narrow:
        maps[name] = localize(model, task, name, retain, kinds_of(name))
    return maps


def test_every_scorer_on_every_family(family):
    model, task, against = prepared(family), sums(4, batch_size=3), sums(4, first=6)
    before = state_of(model)
    bits = [p.detach().clone() for p in model.parameters()]
    maps = run(model, task, against)
    assert equal(state_of(model), before)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), bits, strict=True))
    assert set(maps) == set(METHODS)
    for name, scores in maps.items():
        assert scores.kinds == kinds_of(name)
        assert scores.meta["method"] == name
        for kind in scores.kinds:
            assert np.isfinite(scores.of(kind)).all()
            if name not in MAY_BE_FLAT:
                assert np.ptp(scores.of(kind)) > 0, (name, kind)
    again = run(model, task, against)
    for name in maps:
        for kind in maps[name].kinds:
            assert np.array_equal(maps[name].of(kind), again[name].of(kind)), (name, kind)


def test_mixtures_of_experts_are_scored_or_refused_by_name(moe_family):
    model, task, against = make(moe_family), sums(4, batch_size=3), sums(4, first=6)
    refused = ("eap", "fisher", "coherence", "natural_gain", "frequency", "specificity", "wanda")
    for name, options in all_methods(against, skip=("ablation", *refused)).items():
        scores = localize(model, task, name, **{"retain": None, **options})
        assert all(np.isfinite(scores.of(kind)).all() for kind in scores.kinds)
    for name in refused:
        with pytest.raises(GuidedError, match="experts share no input"):
            localize(model, task, name, **{"retain": None, **all_methods(against)[name]})


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_shared_passes_change_nothing(family):
    model, task, against = make(family), sums(5, batch_size=2), sums(4, first=6)
    wanted = all_methods(against, skip=("ablation", "gates"))
    together = localize(model, task, methods=wanted, retain=None)
    for name, options in wanted.items():
        same(localize(model, task, name, **{"retain": None, **options}), together[name], 1e-6, name)


def test_each_pass_is_run_once():
    model, task = make("llama"), sums(6, batch_size=2)
    count = {"forward": 0}
    handle = model.register_forward_hook(lambda *a: count.update(forward=count["forward"] + 1))
    listeners = ["activation", "wanda", "direct_logit", "block_influence", "attribution", "fisher", "snip", "coherence"]
    localize(model, task, methods=listeners, retain=None)
    assert count["forward"] == 9  # three batches: activations; their gradients; the weights' gradients
    count["forward"] = 0
    localize(model, task, methods=listeners, retain=sums(2, first=9))
    assert count["forward"] == 12
    handle.remove()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2"])
def test_batching_and_padding_change_nothing(family):
    model = make(family)
    skip = (*TRAINED, "ablation", *(set(METHODS) - set(DATA)))
    settings = [(1, "right"), (3, "right"), (8, "right"), (3, "left"), (8, "left")]
    maps = []
    for size, side in settings:
        against = sums(4, size, first=6, padding=side)
        wanted = all_methods(against, skip=skip)
        maps.append(localize(model, sums(6, size, padding=side), methods=wanted, retain=None))
    for other, setting in zip(maps[1:], settings[1:], strict=True):
        for name in maps[0]:
            same(maps[0][name], other[name], 1e-5, f"{name} {setting}")


def test_order_and_threads_change_nothing():
    model, task, against = make("llama"), sums(6, 3), sums(4, 3, first=6)
    wanted = all_methods(against, skip=(*TRAINED, "ablation", *(set(METHODS) - set(DATA))))
    threads = torch.get_num_threads()
    maps = []
    for order, number in ((range(6), 1), (range(5, -1, -1), 1), (range(6), 2)):
        torch.set_num_threads(number)
        try:
            maps.append(localize(model, task.part(order), methods=wanted, retain=None))
        finally:
            torch.set_num_threads(threads)
    for other, by_order in zip(maps[1:], (BY_ORDER, ()), strict=True):
        for name in set(maps[0]) - set(by_order):
            same(maps[0][name], other[name], 1e-5, name)


@pytest.mark.parametrize("method", ["attribution", "integrated_gradients", "eap"])
def test_batching_and_padding_change_nothing_in_pairs(method):
    model = make("llama")
    settings = {"replace": "corrupted"} if method != "integrated_gradients" else {"baseline": "corrupted"}
    settings |= {"keep": 0.5, "steps": 2} if method == "eap" else {}
    tasks = [pairs(6, size, padding=side) for size, side in ((1, "right"), (4, "right"), (8, "left"))]
    maps = [localize(model, task, method, None, **settings) for task in tasks]
    same(maps[0], maps[1])
    same(maps[0], maps[2])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_scorer_takes_preferences(family):
    model, task, against = make(family), preferences(4, batch_size=3), sums(4, first=6)
    skip = ("ablation", "gates")
    one, two = (run(model, preferences(4, size), against, skip=skip) for size in (1, 3))
    for name in one:
        if name not in TRAINED:
            same(one[name], two[name], 1e-5, name)
    assert localize(model, task, "probe", None).meta["chance"] == 0.5


def test_every_scorer_takes_bf16():
    task, against = sums(5), sums(4, first=6)
    exact, rough = (run(make("llama", d), task, against, skip=("gates",)) for d in (torch.float32, torch.bfloat16))
    for name in ("fisher", "wanda", "activation", "direct_logit", "gradient_norm", "contrast", "snip", "angular"):
        kind = exact[name].kinds[-1]
        assert exact[name].compare(rough[name], kind)["spearman"] > 0.95, name


class Broken(Exception):
    pass


@pytest.mark.parametrize("method", [m for m in DATA if m != "ablation"])
@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_nothing_is_left_behind_after_a_fault(method, error):
    model, task = prepared("llama"), sums(4, batch_size=2)
    calls = {"left": 1}

    def fail(module, args):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise error  # in the second pass, when all hooks and sums are in use

    handle = model.model.layers[1].mlp.register_forward_pre_hook(fail)
    before, bits = state_of(model), [p.detach().clone() for p in model.parameters()]
    with pytest.raises(error):
        localize(model, task, methods={method: all_methods(sums(4, first=6))[method]}, retain=None)
    handle.remove()
    after = state_of(model)
    assert after[0] == before[0] - 1
    assert equal((before[0], *after[1:]), before)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), bits, strict=True))


def test_attention_is_computed_as_before_after_a_sink_score():
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(make("llama").config, attn_implementation="sdpa")
    model.load_state_dict(make("llama").state_dict())
    found = localize(model, sums(4), "sink", None)
    assert model.config._attn_implementation == "sdpa"
    same(localize(make("llama"), sums(4), "sink", None), found)


def test_memory_does_not_grow_with_the_examples():
    def size(count: int) -> dict[str, int]:
        model, task = make("llama"), sums(count, batch_size=2)
        anatomy = Anatomy.of(model)
        found = {}
        for name, options in all_methods(sums(2, first=6)).items():
            scorer = catalogue.find(name).load()
            if isinstance(scorer, type) and issubclass(scorer, Recorder):
                recorder = scorer(anatomy, catalogue.find(name).kinds, **options)
                listen(model, anatomy, task, {name: recorder})
                held = [v for step in recorder.steps for v in step.values()]
                held += [v for x in vars(recorder).values() if isinstance(x, dict) for v in x.values()]
                tensors = [t for v in held for t in (v if isinstance(v, tuple) else (v,)) if torch.is_tensor(t)]
                found[name] = sum(t.numel() for t in tensors)
        return found

    assert size(4) == size(10)


@pytest.mark.parametrize("method", [m for m in METHODS if catalogue.CATALOGUE[m].kinds != KINDS])
def test_a_kind_that_is_not_defined_is_refused_by_name(method):
    kinds = catalogue.CATALOGUE[method].kinds
    missing = next(kind for kind in KINDS if kind not in kinds)
    with pytest.raises(GuidedError) as error:
        localize(make("llama"), sums(2), method, None, kinds=(missing,))
    assert str(error.value) == f"{method}: it does not score a {missing} (it scores: {', '.join(kinds)})"


@pytest.mark.parametrize("method", DATA)
def test_two_sided_works_or_says_why_not(method):
    model, task, retain = make("llama"), sums(3), sums(3, first=6)
    options = all_methods(retain)[method]
    options.pop("retain", None)
    scores = localize(model, task, method, retain, kinds_of(method), **options)
    assert scores.meta["retain"]["hash"] == retain.hash
    assert ("retain" in scores.meta["options"]) == (method in SETS) == ("combine" not in scores.meta)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_overflows_makes_no_map_or_one_of_numbers(method):
    model = make("llama").to(torch.bfloat16)
    with torch.no_grad():
        for layer in model.model.layers:
            for weight in (layer.mlp.up_proj.weight, layer.mlp.down_proj.weight):
                weight.mul_(1e30)
    task, against = sums(4), sums(4, first=6)
    before, said, scores = state_of(model), "", None
    try:
        scores = localize(model, task, method, **{"retain": None, **all_methods(against)[method]})
    except GuidedError as error:
        said = str(error)
    assert "not finite" in said or all(np.isfinite(scores.of(kind)).all() for kind in scores.kinds), said
    assert equal(state_of(model), before)
