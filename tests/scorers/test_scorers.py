"""Scorers: right against oracles, the same for every batching, and nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from basic_scorers import METHODS, same, task_of
from captum.attr import LayerGradientXActivation
from families import make
from untouched import hooks_of

from guided_ft.anatomy import KINDS, Anatomy, Component
from guided_ft.errors import GuidedError
from guided_ft.scorers import catalogue
from guided_ft.scorers.directions import localize_directions
from guided_ft.scorers.localize import localize
from guided_ft.scorers.watch.tap import Tap
from guided_ft.selection.combine import FLOOR
from guided_ft.selection.scoremap import ScoreMap
from guided_ft.task.task import Task
from guided_ft.task.tokens import Tokens


@pytest.mark.parametrize("method", METHODS)
def test_every_method_scores_every_family(family, method):
    model = make(family)
    scores = localize(model, task_of(4), method, kinds=KINDS, retain=None)
    assert scores.kinds == KINDS
    assert all(np.ptp(scores.of(kind)) > 0 for kind in KINDS)
    assert scores.meta["method"] == method


def test_attribution_equals_captum(family):
    model = make(family).requires_grad_(False)
    anatomy = Anatomy.of(model)
    task = task_of(4)
    batch = next(task.batches())
    embeddings = model.get_input_embeddings()(batch["input_ids"]).detach()

    def loss(inputs):
        out = model(inputs_embeds=inputs, attention_mask=batch["attention_mask"], use_cache=False)
        nll = torch.nn.functional.cross_entropy(
            out.logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], ignore_index=-100, reduction="none"
        )
        return nll.sum(1) / (batch["labels"][:, 1:] != -100).sum(1)

    layers = range(anatomy.num_layers)
    modules = [model.get_submodule(f(i)) for f in (anatomy.out_module, anatomy.down_module) for i in layers]
    found = LayerGradientXActivation(loss, modules).attribute(
        embeddings.requires_grad_(True), attribute_to_layer_input=True
    )
    found = [f[0] if isinstance(f, tuple) else f for f in found]
    # OPT hands rows and tokens to its MLP as one dimension.
    found = [f.detach().reshape(*batch["input_ids"].shape, -1) for f in found]
    heads = torch.stack([f.sum(1).unflatten(-1, (anatomy.num_heads, -1)).sum(-1) for f in found[: len(found) // 2]])
    neurons = torch.stack([f.sum(1) for f in found[len(found) // 2 :]])
    scores = localize(model, task, "attribution", retain=None)
    np.testing.assert_allclose(scores.head, heads.abs().mean(1), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(scores.neuron, neurons.abs().mean(1), rtol=1e-4, atol=1e-7)
    signed = localize(model, task, "attribution", retain=None, signed=True)
    np.testing.assert_allclose(signed.head, -heads.mean(1), rtol=1e-4, atol=1e-7)


def test_gradient_equals_autograd(family):
    model = make(family)
    anatomy = Anatomy.of(model)
    task = task_of(6, batch_size=3)
    scores = localize(model, task, "gradient", retain=None)
    model.requires_grad_(True)
    expected = {kind: np.zeros(scores.of(kind).shape) for kind in KINDS}
    for batch in task.batches():
        model.zero_grad()
        task.loss(task.quantity(model, batch)).mean().backward()
        for kind in ("head", "neuron"):
            for c in anatomy.components(kind):
                for part in anatomy.slices(c):
                    grad = model.get_submodule(part.module).weight.grad
                    square = grad.index_select(part.axis, torch.tensor(part.index)).pow(2)
                    shared = kind == "head" and part.axis == anatomy.rows_axis and len(part.index) > anatomy.head_dim
                    expected[kind][c.layer, c.index] += _owned(anatomy, c, part, square, shared)
    for kind in ("head", "neuron"):
        np.testing.assert_allclose(scores.of(kind), expected[kind] / 2, rtol=1e-4)


def _owned(anatomy, c, part, square, fused):
    """A head owns its query rows and out-columns, and an equal share of its group's key and value rows."""
    if c.kind == "neuron" or part.axis != anatomy.rows_axis:
        return float(square.sum())
    rows = square.sum(1 - part.axis)
    query = (
        set(anatomy.head_rows(anatomy.family.query)[c.index].tolist()) if _has(part, anatomy.family.query) else set()
    )
    own = sum(float(v) for i, v in zip(part.index, rows, strict=True) if i in query)
    rest = sum(float(v) for i, v in zip(part.index, rows, strict=True) if i not in query)
    return own + rest / anatomy.heads_per_group


def _has(part, rows):
    return part.module.endswith(rows.module)


def test_attribution_agrees_with_ablation(family):
    """First order against exact: the ranks agree on small random models."""
    model, task = make(family), task_of(6)
    kinds = ("head", "neuron")
    estimate = localize(model, task, "attribution", retain=None, kinds=kinds, signed=True)
    exact = localize(model, task, "ablation", retain=None, kinds=kinds, signed=True)
    assert estimate.compare(exact, "neuron")["spearman"] > 0.8


def test_attribution_is_exact_where_the_loss_is_linear():
    """With the answer's log-probability linear in the activations, first order is the whole story."""
    model = make("llama")
    task = task_of(4)
    scale = 1e-3
    for layer in range(2):
        # Shrunk contributions stay in the linear range of what follows.
        model.model.layers[layer].mlp.down_proj.weight.data.mul_(scale)
        model.model.layers[layer].self_attn.o_proj.weight.data.mul_(scale)
    estimate = localize(model, task, "attribution", retain=None, signed=True)
    exact = localize(model, task, "ablation", retain=None, signed=True, kinds=KINDS)
    assert estimate.compare(exact, "head")["pearson"] > 0.999
    assert estimate.compare(exact, "neuron")["pearson"] > 0.98


@pytest.mark.parametrize("replace", ["zero", "mean"])
def test_ablation_equals_editing_the_weights(replace):
    model, task = make("llama"), task_of(3, batch_size=2)
    anatomy = Anatomy.of(model)
    scores = localize(
        model, task, "ablation", retain=None, kinds=("layer", "head", "neuron"), signed=True, replace=replace
    )
    if replace == "mean":
        assert not np.allclose(
            scores.head, localize(model, task, "ablation", retain=None, kinds=("head",), signed=True).head
        )
        return
    with torch.no_grad():
        clean = torch.cat([task.loss(task.quantity(model, b)) for b in task.batches()])
        for text in ("L0.H1", "L1.H3", "L0.N7", "L1.N40"):
            edited, c = make("llama"), Component.parse(text)
            module = anatomy.out_module(c.layer) if c.kind == "head" else anatomy.down_module(c.layer)
            part = next(s for s in anatomy.slices(c) if s.module == module)
            edited.get_submodule(module).weight[:, list(part.index)] = 0
            changed = torch.cat([task.loss(task.quantity(edited, b)) for b in task.batches()])
            assert scores.score(c) == pytest.approx(float((changed - clean).mean()), abs=1e-5)


def test_mean_ablation_of_a_constant_part_changes_nothing():
    model, task = make("gpt2"), task_of(3)
    block = model.transformer.h[1].mlp
    block.c_fc.weight.data[:, 5] = 0  # neuron 5 now says the same at every token
    scores = localize(model, task, "ablation", retain=None, kinds=("neuron",), replace="mean")
    assert scores.neuron[1, 5] < 1e-6 < np.median(scores.neuron)


@pytest.mark.parametrize("method", ["attribution", "ablation"])
@pytest.mark.parametrize("preference", [False, True])
def test_scores_do_not_depend_on_the_batching(method, preference):
    model = make("llama")
    maps = [
        localize(model, task_of(7, n, preference), method, retain=None, kinds=("layer", "head", "neuron"))
        for n in (1, 3, 8)
    ]
    same(maps[0], maps[1])
    same(maps[0], maps[2])


@pytest.mark.parametrize("method", METHODS)
def test_a_repeat_is_bit_equal(method):
    model, task = make("llama"), task_of(4)
    first, second = (localize(model, task, method, seed=3) for _ in range(2))
    for kind in first.kinds:
        assert np.array_equal(first.of(kind), second.of(kind))


def test_two_sided_is_the_ratio():
    model, task, retain = make("llama"), task_of(4), Task.from_dataset(tiny.sums(9)[5:], tiny.tokenizer())
    for method in ("attribution", "gradient"):
        target, kept = (localize(model, t, method, retain=None) for t in (task, retain))
        both = localize(model, task, method, retain=retain)
        for kind in KINDS:
            expected = target.of(kind) / (kept.of(kind) + FLOOR * kept.of(kind).mean())
            np.testing.assert_allclose(both.of(kind), expected, rtol=1e-6)
        assert both.meta["retain"]["hash"] == retain.hash


@pytest.mark.parametrize("method", ["attribution", "ablation"])
def test_both_answers_of_a_pair_make_one_example(method):
    """The effect on the pair counts, not the effects on its two answers apart."""
    model, task = make("llama"), task_of(1, preference=True)
    total, signed = (localize(model, task, method, retain=None, kinds=("head",), signed=s).head for s in (False, True))
    np.testing.assert_allclose(total, np.abs(signed), rtol=1e-4)


def test_permuting_the_heads_permutes_the_scores():
    task, order = task_of(4), [2, 3, 0, 1]  # whole groups change places
    model, permuted = make("llama"), make("llama")
    attention, d = permuted.model.layers[0].self_attn, 8
    rows = torch.cat([torch.arange(h * d, (h + 1) * d) for h in order])
    groups = torch.cat([torch.arange(8, 16), torch.arange(0, 8)])
    with torch.no_grad():
        attention.q_proj.weight.copy_(attention.q_proj.weight[rows])
        for name in ("k_proj", "v_proj"):
            weight = getattr(attention, name).weight
            weight.copy_(weight[groups])
        attention.o_proj.weight.copy_(attention.o_proj.weight[:, rows])
    for method in ("attribution", "gradient", "ablation", "magnitude"):
        a, b = (localize(m, task, method, retain=None, kinds=("head",)) for m in (model, permuted))
        np.testing.assert_allclose(b.head[0], a.head[0][order], rtol=1e-3)


def test_heads_sum_to_the_out_projection():
    """The sum over heads of a.g is the projected output dotted with its gradient: nothing is lost or counted twice."""
    model, task = make("llama"), task_of(1)
    signed = localize(model, task, "attribution", retain=None, signed=True)

    def keep(module, args, out):
        out.retain_grad()
        seen.append(out)

    seen: list[torch.Tensor] = []
    handle = model.model.layers[1].self_attn.o_proj.register_forward_hook(keep)
    task.loss(task.quantity(model, next(task.batches()))).sum().backward()
    handle.remove()
    total = float((seen[0] * seen[0].grad).detach().sum())
    assert -signed.head[1].sum() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_bf16_scores_are_close_to_fp32(dtype):
    task = task_of(6)
    for method in ("attribution", "gradient"):
        exact, rough = (localize(make("llama", d), task, method, retain=None) for d in (torch.float32, dtype))
        assert exact.compare(rough, "neuron")["spearman"] > 0.97


def test_a_scorer_of_ones_own(monkeypatch):
    def depth(model, anatomy, task, *, kinds, progress=None):
        """Later layers score higher."""
        layers = np.arange(anatomy.num_layers, dtype=float)
        return ScoreMap(anatomy, layer=layers, head=np.repeat(layers[:, None], anatomy.num_heads, 1))

    monkeypatch.setattr(catalogue, "CATALOGUE", dict(catalogue.CATALOGUE))
    catalogue.register("depth", depth, needs_data=False)
    scores = localize(make("llama"), task_of(1), "depth", kinds=("layer", "head"))
    assert scores.top("layer", 1) == [(Component("layer", 1), 1.0)]
    with pytest.raises(GuidedError, match="'depth' is taken"):
        catalogue.register("depth", depth)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "gradeint"}, "method: unknown value 'gradeint' (did you mean 'gradient'?)"),
        ({"kinds": ("heads",)}, "kinds: unknown value 'heads' (did you mean 'head'?)"),
        ({"kinds": ()}, "kinds: empty (choose from layer, head, neuron"),
        ({"retain": "slef"}, "retain: unknown value 'slef' (did you mean 'self'?)"),
        ({"method": "attribution", "stepz": 3}, "method 'attribution': got an unexpected keyword argument 'stepz'"),
        ({"method": "attribution", "signed": True}, "signed: a ratio needs scores that are not negative"),
        ({"method": "ablation", "replace": "noise"}, "replace: unknown value 'noise'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(GuidedError) as error:
        localize(make("llama"), task_of(1), **arguments)
    assert message in str(error.value)


ROWS = [{"prompt": "1+1=", "completion": " 2"}]


@pytest.mark.parametrize("way", [localize, localize_directions])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": ROWS}, "task: a list is no Task (write task=Task.from_dataset(rows, tokenizer))"),
        ({"task": None}, "task: a NoneType is no Task (write task=Task.from_dataset(rows, tokenizer))"),
        ({"task": "rows.jsonl"}, "task: the text 'rows.jsonl' is no Task (write task=Task.load(path, tokenizer))"),
        ({"retain": ROWS}, "retain: a list is no Task (write retain=Task.from_dataset(rows, tokenizer))"),
        ({"retain": "a.txt"}, "retain: the text 'a.txt' is no Task (write retain=Task.load(path, tokenizer))"),
        ({"retain": "slef"}, "retain: unknown value 'slef' (did you mean 'self'?)"),
    ],
)
def test_rows_and_files_in_place_of_a_task_are_refused_and_not_passed_over(way, arguments, message):
    with pytest.raises(GuidedError) as error:
        way(make("llama"), **({"task": task_of(1)} | arguments))
    assert str(error.value) == message


def test_what_a_method_compares_with_is_a_task():
    with pytest.raises(GuidedError, match=r"retain: a list is no Task \(write retain=Task.from_dataset"):
        localize(make("llama"), task_of(1), "specificity", against=[task_of(2), ROWS])


def test_scores_that_are_not_finite_are_refused():
    model = make("llama")
    model.model.layers[0].mlp.up_proj.weight.data[3] = float("nan")
    with pytest.raises(GuidedError, match="not finite at"):
        localize(model, task_of(2), "attribution", retain=None)


def test_a_task_of_ids_needs_no_tokenizer():
    task = Task(((Tokens((5, 6, 7), (-100, 6, 7)),),))
    assert localize(make("opt"), task, "attribution", retain=None).neuron.max() > 0


def test_tap_refuses_nothing_it_did_not_open():
    model = make("llama")
    with Tap(model) as tap:
        tap.at_input("model.layers.0.mlp.down_proj", lambda a: None)
        assert hooks_of(model) == 1
    assert hooks_of(model) == 0
