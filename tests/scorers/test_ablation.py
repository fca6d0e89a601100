"""Exact ablation: the fast way equals the plain way, on every family, padding and replacement."""

from __future__ import annotations

import dataclasses

import naive_ablation as naive
import numpy as np
import pytest
import tiny
import torch
from families import NAMES, make
from naive_ablation import task_of
from transformers import AutoConfig
from untouched import equal, prepared, state_of

from guided_ft.anatomy import Anatomy, Component
from guided_ft.errors import GuidedError
from guided_ft.proofs.replica import replica_of_config
from guided_ft.scorers.localize import localize
from guided_ft.scorers.methods import ablation as module
from guided_ft.scorers.methods.ablation import ablation, effects
from guided_ft.scorers.watch.shortcuts import Shortcuts, shared_prefix
from guided_ft.scorers.watch.suffix import Entry, Suffix
from guided_ft.scorers.watch.tap import Tap
from guided_ft.task.task import Task
from guided_ft.task.tokens import Tokens

REPLACE = ("zero", "mean", "resample", "corrupted")

SOME = tuple(map(Component.parse, ("L0", "L1", "L0.H1", "L1.H3", "L0.N7", "L1.N40")))


PADDED = (("right", ""), ("right", "abcdef"), ("right", "ab"), ("left", "ab"))
EVERY = ("llama", "gemma2")
"""Families on which every replacement meets every padding; the second slides its window. On the others each meets one."""
CASES = [
    (family, replace, *padded)
    for family in NAMES
    for i, replace in enumerate(REPLACE)
    for j, padded in enumerate(PADDED)
    if family in EVERY or (i + j + NAMES.index(family)) % 4 == 0
]


@pytest.mark.parametrize(("family", "replace", "padding", "shared"), CASES)
def test_fast_equals_plain(family, replace, padding, shared):
    model, task = make(family), task_of(shared=shared, padding=padding)
    assert shared_prefix(task) == (len(shared) if padding == "right" else 0)
    halves, _ = effects(model, Anatomy.of(model), task, SOME, replace=replace, signed=True)
    for at, c in enumerate(SOME):
        plain = [naive.effect(model, task, c, i, naive.values(model, task, c, i, replace)) for i in range(len(task))]
        expected = [sum(plain[0::2]), sum(plain[1::2])]
        assert halves[:, at].tolist() == pytest.approx(expected, abs=2e-4), c
    assert np.abs(halves).max() > 0.01


@pytest.mark.parametrize("replace", REPLACE)
def test_preference_pairs_equal_plain(replace):
    model, task = make("llama"), task_of(4, preference=True)
    halves, _ = effects(model, Anatomy.of(model), task, SOME, replace=replace, signed=True)
    for at, c in enumerate(SOME):
        plain = [naive.effect(model, task, c, i, naive.values(model, task, c, i, replace)) for i in range(len(task))]
        assert halves[:, at].sum() == pytest.approx(sum(plain), abs=2e-5), c


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_the_number_of_copies_changes_nothing(monkeypatch, copies):
    model, task = make("gemma2"), task_of()
    whole = ablation(model, Anatomy.of(model), task, kinds=("head", "neuron"))
    monkeypatch.setattr(module, "TOKENS", copies * 3 * 20)
    parts = ablation(model, Anatomy.of(model), task, kinds=("head", "neuron"))
    assert parts.meta["passes"] > whole.meta["passes"]
    for kind in ("head", "neuron"):
        np.testing.assert_allclose(parts.of(kind), whole.of(kind), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("replace", REPLACE)
def test_the_batching_changes_nothing(replace, batch_size):
    model, task = make("opt"), task_of()
    kinds = ("layer", "head", "neuron")
    a, b = (
        ablation(model, Anatomy.of(model), dataclasses.replace(task, batch_size=n), kinds=kinds, replace=replace)
        for n in (3, batch_size)
    )
    for kind in kinds:
        np.testing.assert_allclose(a.of(kind), b.of(kind), rtol=1e-3, atol=1e-5)


def test_what_is_not_needed_is_not_run(settled):
    """After the clean pass a change in a layer costs that layer and those above it; a shared beginning runs once."""
    model, task = make("llama", layers=4), dataclasses.replace(task_of(), batch_size=8)
    runs = dict.fromkeys(range(4), 0)

    def count(layer):
        def hook(m, args):
            runs[layer] += args[0].shape[0] * args[0].shape[1]

        return hook

    handles = [model.model.layers[i].self_attn.o_proj.register_forward_pre_hook(count(i)) for i in range(4)]
    effects(model, Anatomy.of(model), task, [Component("head", 2, 0), Component("head", 2, 3)])
    for handle in handles:
        handle.remove()
    rows, length, prefix = len(task), max(len(e[0].ids) for e in task.examples) - 1, 6
    clean, copy = rows * length + prefix, prefix + rows * (length - prefix)
    assert runs == {0: clean, 1: clean, 2: clean + 2 * copy, 3: clean + 2 * copy}


@pytest.fixture
def settled(monkeypatch):
    """Without the check on the first batch, so that what is left can be counted."""
    monkeypatch.setattr(Shortcuts, "_settled", True)


def test_components_of_different_layers_run_together(settled, monkeypatch):
    """Each enters at its own layer; from there on they are copies of one batch, up to as many as there is room for."""
    model, task = make("llama", layers=4), dataclasses.replace(task_of(), batch_size=8)
    rows, calls = len(task), {0: [], 1: [], 2: [], 3: []}

    def count(layer):
        return lambda m, args: calls[layer].append(args[0].shape[0])

    handles = [model.model.layers[i].mlp.register_forward_pre_hook(count(i)) for i in range(4)]
    some = [Component("head", 0, 0), Component("head", 2, 1), Component("head", 2, 3), Component("head", 3, 0)]
    together, passes = effects(model, Anatomy.of(model), task, some)
    for handle in handles:
        handle.remove()
    assert passes == 2
    clean = [rows, 1]  # the rows, and the beginning that they share; then each copy's beginning and rows
    assert calls == {i: [*clean, n, n * rows] for i, n in enumerate((1, 1, 3, 4))}
    monkeypatch.setattr(module, "TOKENS", 1)
    alone, passes = effects(model, Anatomy.of(model), task, some)
    assert passes == 5
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-5)


def test_the_last_layer_says_only_what_is_scored(settled):
    """What follows its attention runs where an answer is scored, and at one token of the shared beginning."""
    model, task = make("llama", layers=3), dataclasses.replace(task_of(), batch_size=8)
    runs = [0, 0, 0]

    def count(layer):
        def hook(m, args):
            runs[layer] += args[0].shape[0] * args[0].shape[1]

        return hook

    handles = [model.model.layers[i].mlp.down_proj.register_forward_pre_hook(count(i)) for i in range(3)]
    effects(model, Anatomy.of(model), task, [Component("head", 1, 0)])
    for handle in handles:
        handle.remove()
    rows, length, prefix = len(task), max(len(e[0].ids) for e in task.examples) - 1, 6
    scored = len({t - 1 for e in task.examples for t, label in enumerate(e[0].labels) if label != -100})
    clean = rows * length + prefix
    assert runs == [clean, clean + rows * (length - prefix) + prefix, clean + rows * scored + 1]
    assert scored < length - prefix


def test_identical_pairs_give_exactly_nothing():
    model, task = make("gpt2"), task_of()
    same = dataclasses.replace(task, corrupted=task.examples)
    scores = ablation(model, Anatomy.of(model), same, kinds=("head", "neuron", "layer"), replace="corrupted")
    # What was stored goes through the same sums again, in batches of another shape: nothing but rounding is left.
    assert max(np.abs(scores.of(kind)).max() for kind in scores.kinds) < 2e-6


def test_metrics_and_wrong_answers_go_through():
    model = make("llama")
    rows = [row | {"wrong": row["completion"] + "1"} for row in tiny.sums(4)]
    task = Task.from_dataset(rows, tiny.tokenizer(), metric="logit_diff", batch_size=3)

    def own(logits, batch):
        at = (batch["wrong"] != -100).nonzero()[:, 1]
        rows = torch.arange(len(at))
        step = logits[rows, at - 1]
        return step[rows, batch["labels"][rows, at]] - step[rows, batch["wrong"][rows, at]]

    a, b = (
        ablation(model, Anatomy.of(model), t, kinds=("head",), signed=True).head
        for t in (task, dataclasses.replace(task, metric=own))
    )
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(a).max() > 0.01


def test_what_it_needs_is_said():
    model, task = make("llama"), task_of()
    with pytest.raises(GuidedError, match="has no corrupted prompts"):
        localize(model, dataclasses.replace(task, corrupted=None), "ablation", retain=None, replace="corrupted")
    with pytest.raises(GuidedError, match="resampling needs at least two examples"):
        localize(model, task.take(1), "ablation", retain=None, replace="resample")


def test_what_would_take_hours_is_refused_before_the_first_pass():
    model, task = make("llama", layers=3), task_of(5)  # 2 batches; a layer's suffix is 1, 2/3 or 1/3 of a pass
    cost = 2 * round(model.config.num_attention_heads * (1 + 2 / 3 + 1 / 3))
    calls = []
    handle = model.register_forward_pre_hook(lambda m, args: calls.append(0))
    with pytest.raises(GuidedError, match=rf"12 components on 5 examples are about {cost} forward passes \(leave out"):
        localize(model, task, "ablation", retain=None, kinds=("head",), max_passes=cost - 1)
    assert not calls
    localize(model, task, "ablation", retain=None, kinds=("head",), max_passes=cost)
    handle.remove()
    assert calls


@pytest.mark.parametrize("fault", [None, ValueError, KeyboardInterrupt])
def test_left_out_layers_come_back(family, fault, monkeypatch):
    model, task = prepared(family), task_of(2)
    before, own = state_of(model), [dict(vars(m)) for m in model.modules()]
    if fault is not None:
        run, calls = Task.quantity, []

        def stop(self, m, batch):
            calls.append(0)
            if len(calls) == 6:
                raise fault
            return run(self, m, batch)

        monkeypatch.setattr(Task, "quantity", stop)
        with pytest.raises(fault):
            localize(model, task, "ablation", retain=None)
    else:
        localize(model, task, "ablation", retain=None)
    assert equal(state_of(model), before)
    assert [set(vars(m)) for m in model.modules()] == [set(names) for names in own]


def test_a_forward_that_someone_else_put_there_comes_back():
    """accelerate replaces the forward of modules that it moves between devices."""
    model = make("llama")
    layer = model.model.layers[0]
    theirs = layer.forward
    layer.forward = theirs
    with Tap(model) as tap:
        handle = tap.leave_out(["model.layers.0"], torch.zeros(1))
        assert layer.forward is not theirs
        handle.remove()
        handle.remove()
    assert layer.__dict__["forward"] is theirs


def test_suffix_of_an_unchanged_layer_is_the_clean_pass(family):
    from guided_ft.scorers.watch.scene import Scene

    model, task = make(family), task_of(3)
    with Tap(model) as tap, torch.no_grad():
        scene = Scene(tap, Anatomy.of(model), task)
        scene.show(next(task.batches()))
        prefix = shared_prefix(task)
        assert prefix == 6
        for layer, length in ((0, prefix), (1, prefix), (0, 0), (1, 0)):
            suffix = Suffix(scene, {0, 1}, length)
            again = suffix.edited([Entry(layer, 3, {("head", layer): lambda a, part: None})])
            assert torch.allclose(again, suffix.clean.expand(3, -1), atol=1e-5)


def test_shared_prefix_ends_before_the_first_scored_position():
    def of(*rows, **options):
        return shared_prefix(Task(tuple((Tokens(ids, labels),) for ids, labels in rows), **options))

    assert of(((5, 6, 7, 8), (-100, -100, -100, 8)), ((5, 6, 9, 8), (-100, -100, -100, 8))) == 2
    assert of(((5, 6, 7, 8), (-100, -100, 7, 8)), ((5, 6, 7, 9), (-100, -100, 7, 9))) == 1
    assert of(((5, 6, 7), (5, 6, 7))) == 0
    assert of(((5, 6, 7, 8), (-100, -100, -100, 8))) == 2
    assert of(((5, 6, 7, 8), (-100, -100, -100, 8)), padding="left") == 0
    both = Task(
        ((Tokens((5, 6, 7, 8), (-100, -100, -100, 8)),),), corrupted=((Tokens((5, 9, 7, 8), (-100,) * 3 + (8,)),),)
    )
    assert shared_prefix(both) == 1


# -- shortcuts that would change something -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["paligemma", "gemma3_text"])
def test_what_looks_ahead_or_counts_otherwise_is_ablated_as_a_whole(name):
    """PaliGemma's wrapper counts positions from 1; Gemma 3's attention can look ahead."""
    settings = {"use_bidirectional_attention": True} if name == "gemma3_text" else {}
    model = replica_of_config(AutoConfig.for_model(name, **settings))
    anatomy, task = Anatomy.of(model), task_of(3)
    heads = anatomy.components("head")
    halves, _ = effects(model, anatomy, task, heads, signed=True)
    for head, found in zip(heads, halves.sum(0), strict=True):
        expected = sum(naive.effect(model, task, head, i, None) for i in range(len(task)))
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_model_that_cannot_be_run_from_a_layer_on_is_refused(monkeypatch):
    model, task = make("llama"), task_of(2)
    real = Suffix.edited
    monkeypatch.setattr(Suffix, "edited", lambda self, entries: real(self, entries) + 0.1)
    with pytest.raises(
        GuidedError, match=r"^llama: run from one of its layers on, this model says something else than"
    ):
        effects(model, Anatomy.of(model), task, [Component("head", 0, 0)])
