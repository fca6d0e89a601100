"""What a scorer keeps in memory, byte by byte: nothing of a batch that is over, and of the one that runs no more than
its docstring says."""

from __future__ import annotations

import functools

import pytest
import tiny
from families import make
from torch.profiler import ProfilerActivity, profile

from guided_ft.anatomy import Anatomy
from guided_ft.scorers.localize import localize
from guided_ft.scorers.methods.attribution import Attribution
from guided_ft.scorers.methods.edges import EdgePatching
from guided_ft.scorers.methods.integrated import IntegratedGradients
from guided_ft.scorers.watch.listen import listen
from guided_ft.scorers.watch.tap import Tap
from guided_ft.task.task import Task

LAYERS = 6


@functools.cache
def model_of():
    return make("llama", layers=LAYERS)


@functools.cache
def task_of(batches: int) -> Task:
    """Batches of 16 equal rows of some 40 tokens: all need the same memory, and activations need most of it."""
    row = next(row for row in tiny.sums(50) if len(row["prompt"] + row["completion"]) == 9)
    row |= {"prompt": "abcdefgh" * 4 + row["prompt"]}
    row |= {"corrupted_prompt": row["prompt"].translate(str.maketrans("123456789", "345678912"))}
    return Task.from_dataset([row] * 16 * batches, tiny.tokenizer(), batch_size=16)


def bytes_of(run) -> tuple[int, int]:
    """Bytes of the tensors made while it ran: of those alive at once, at most and at the end."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = run()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    del kept
    return peak, total


def peak_of(run) -> int:
    return bytes_of(run)[0]


@functools.cache
def plain() -> int:
    model, task = model_of(), task_of(1)

    def run():
        with Tap(model, start_graph=True):
            for batch in task.batches():
                task.loss(task.quantity(model, batch)).sum().backward()

    return peak_of(run)


def size_of(kind: str) -> int:
    """Bytes of what all components of a kind say on a batch."""
    config, task = model_of().config, task_of(1)
    width = {"head": config.hidden_size, "neuron": config.intermediate_size, "layer": config.hidden_size}[kind]
    return 4 * LAYERS * 16 * len(task.examples[0][0].ids) * width


def peak(method: str, batches: int = 1, kinds=None, **options) -> int:
    return peak_of(lambda: localize(model_of(), task_of(batches), method, retain=None, kinds=kinds, **options))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("attribution", {}),
        ("attribution", {"replace": "mean"}),
        ("attribution", {"replace": "corrupted"}),
        ("integrated_gradients", {}),
        ("integrated_gradients", {"rule": "conductance"}),
        ("eap", {}),
        ("eap", {"replace": "corrupted"}),
        ("eap", {"steps": 2}),
        ("fisher", {}),
        ("wanda", {}),
    ],
)
def test_memory_does_not_grow_with_the_batches(method, options):
    one, three = (peak(method, batches, **options) for batches in (1, 3))
    assert three - one < 0.002 * one


@pytest.mark.parametrize(
    ("scorer", "options"),
    [
        (Attribution, {"replace": "mean"}),
        (Attribution, {"replace": "corrupted"}),
        (IntegratedGradients, {}),
        (EdgePatching, {"replace": "zero"}),
        (EdgePatching, {"replace": "corrupted"}),
    ],
)
def test_a_batch_that_is_over_leaves_sums_only(scorer, options):
    model, task = model_of(), task_of(1)

    def run():
        anatomy = Anatomy.of(model)
        recorder = scorer(anatomy, ("layer", "head"), **options)
        listen(model, anatomy, task, {"one": recorder})
        return recorder

    assert 0 < bytes_of(run)[1] < 0.2 * size_of("head") / LAYERS


@pytest.mark.parametrize(
    ("kind", "replace", "kept"),
    [
        # What autograd keeps anyway is not kept twice: both sides of a layer, and up of a gated neuron, whose product
        # with the gate nobody else needs. What enters an out-projection with a frozen weight is kept for the score.
        ("head", "zero", 1),
        ("head", "mean", 1),
        ("layer", "zero", 0),
        ("layer", "mean", 0),
        ("neuron", "zero", 0),
        ("neuron", "mean", 0),
        # The other prompt's activations wait for the gradients, and with them those that they are compared with.
        ("head", "corrupted", 2),
        ("layer", "corrupted", 1),
        ("neuron", "corrupted", 2),
    ],
)
def test_what_attribution_keeps_of_a_batch(kind, replace, kept):
    extra = peak("attribution", kinds=(kind,), replace=replace) - plain()
    assert extra / size_of(kind) == pytest.approx(kept, abs=0.2)


def test_the_path_keeps_its_start_and_the_sum_of_gradients():
    kinds = ("head",)
    assert (peak("integrated_gradients", kinds=kinds) - plain()) / size_of("head") == pytest.approx(3, abs=0.2)
