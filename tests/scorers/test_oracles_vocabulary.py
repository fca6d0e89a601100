"""Scores that read the vocabulary, and the sensitivity, against a second, plain computation."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from families import make
from scoring import sums
from watching import Watch, close

from guided_ft import Task, localize
from guided_ft.anatomy import Anatomy

POST_NORMED = ["gemma2", "olmo2"]


def unembedding(model):
    decoder = model.get_decoder()
    norm = next(getattr(decoder, n) for n in ("norm", "ln_f", "final_layer_norm") if hasattr(decoder, n))
    return norm, model.get_output_embeddings()


def answered(watch):
    """Per text: the rows that predict the answer and its tokens."""
    for text in watch.texts:
        at = (text["labels"][1:] != -100).nonzero()[:, 0]
        yield text, at, text["labels"][1:][at]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", *POST_NORMED])
@torch.no_grad()
def test_direct_logits_add_up(family):
    model, task = make(family), sums(5, batch_size=3)
    watch, a = Watch(model, task), Anatomy.of(model)
    norm, head = unembedding(model)
    centred = isinstance(norm, torch.nn.LayerNorm)
    total = []
    for text, at, answer in answered(watch):
        logits = head(
            norm(
                text["layer", a.num_layers - 1][1][0]
                if not isinstance(text["layer", a.num_layers - 1][1], tuple)
                else text["layer", a.num_layers - 1][1][0][0]
            )
        )[at]
        right = logits.gather(1, answer[:, None])[:, 0] - logits.mean(1)
        last = text["layer", a.num_layers - 1][1]
        last = (last[0] if isinstance(last, tuple) else last)[0][at]
        first = text["layer", 0][0][0][at]
        beta = norm.bias if centred else 0.0
        inside = [x - x.mean(-1, keepdim=True) if centred else x for x in (last, first)]
        gain = (norm(last) - beta) / inside[0]
        direction = head.weight[answer] - head.weight.mean(0)
        rest = ((gain * inside[1] + beta) * direction).sum(1)
        total.append(float((right - rest).mean()))
    scores = localize(model, task, "direct_logit", None, signed=True)
    assert scores.layer.sum() == pytest.approx(np.mean(total), abs=2e-3)


@pytest.mark.parametrize("family", ["llama", *POST_NORMED, "mixtral", "olmoe"])
def test_heads_and_neurons_add_up_to_layers(family):
    """These families have no biases, so that nothing else is written."""
    model = make(family)
    scores = localize(model, sums(5), "direct_logit", None, signed=True)
    close(scores.head.sum(1) + scores.neuron.sum(1), scores.layer, 1e-4)


@torch.no_grad()
def test_direct_logit_of_the_last_layer_is_its_ablation_at_a_frozen_scale():
    model, task = make("llama"), sums(1)
    watch = Watch(model, task)
    (text, at, answer), (norm, head) = next(answered(watch)), unembedding(model)
    z, hidden = text["z", 1][0][0][at], text["layer", 1][1][0][at]
    scale = hidden.pow(2).mean(-1, keepdim=True).add(norm.variance_epsilon).rsqrt()
    found = localize(model, task, "direct_logit", None, signed=True).head[1]
    for h in range(4):
        part = z[:, 8 * h : 8 * h + 8] @ model.model.layers[1].self_attn.o_proj.weight[:, 8 * h : 8 * h + 8].T
        logits = head(part * scale * norm.weight)
        expected = (logits.gather(1, answer[:, None])[:, 0] - logits.mean(1)).mean()
        assert found[h] == pytest.approx(float(expected), rel=1e-4)


def test_direct_logit_against_the_wrong_answer():

    rows = [
        {"prompt": "1+2 =", "completion": " 3", "wrong": " 4"},
        {"prompt": "2+5 =", "completion": " 7", "wrong": " 8"},
    ]
    task = Task.from_dataset(rows, tiny.tokenizer(), metric="logit_diff")
    model = make("llama")
    watch, (norm, head) = Watch(model, task), unembedding(model)
    expected = []
    for row, text in zip(rows, watch.texts, strict=True):
        at = len(text["labels"]) - 3  # predicts the digit; the end token follows it
        right, wrong = (tiny.tokenizer()(row[k])["input_ids"][-1] for k in ("completion", "wrong"))
        assert int(text["labels"][at + 1]) == right
        last, first = text["layer", 1][1][0][at], text["layer", 0][0][0][at]
        gain = norm(last) / last
        logits = text["logits"][at]
        rest = (gain * first) @ (head.weight[right] - head.weight[wrong])
        expected.append(float((logits[right] - logits[wrong] - rest).detach()))
    scores = localize(model, task, "direct_logit", None, signed=True)
    assert scores.layer.sum() == pytest.approx(np.mean(expected), rel=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
@torch.no_grad()
def test_the_gains_of_the_logit_lens_add_up_to_the_loss(family):
    model, task = make(family), sums(5, batch_size=3)
    watch, (norm, head) = Watch(model, task), unembedding(model)
    cap = getattr(model.config, "final_logit_softcapping", None)
    start = []
    for text, at, answer in answered(watch):
        logits = head(norm(text["layer", 0][0][0][at]))
        logits = cap * torch.tanh(logits / cap) if cap else logits
        start.append(float(logits.log_softmax(1).gather(1, answer[:, None]).mean()))
    loss = torch.cat([task.loss(task.quantity(model, b)) for b in task.batches()]).mean()
    scores = localize(model, task, "logit_lens", None, signed=True)
    assert scores.layer.sum() == pytest.approx(-float(loss) - np.mean(start), rel=1e-4)


@torch.no_grad()
def test_execution_depth_finds_where_the_answer_appears():
    model, task = make("llama", layers=4), sums(6, batch_size=4)
    norm, head = unembedding(model)
    # A layer that says one token loudly; the tasks' answers all end with the end token.
    model.model.layers[2].mlp.down_proj.weight.data[:] = 0
    direction = head.weight[2] / head.weight[2].norm()
    original = model.model.layers[2].forward
    model.model.layers[2].forward = lambda h, *args, **kwargs: (
        original(h, *args, **kwargs) + 50 * direction / norm.weight
    )
    watch = Watch(model, task)
    counts, total = np.zeros(4), 0
    for text, at, answer in answered(watch):
        tops = [head(norm(text["layer", i][1][0][at])).argmax(1) == answer for i in range(4)]
        for column in range(len(at)):
            total += 1
            first = next((i for i in range(4) if tops[i][column]), None)
            if first is not None:
                counts[first] += 1
    scores = localize(model, task, "execution_depth", None)
    np.testing.assert_allclose(scores.layer, counts / total, rtol=1e-6)
    assert scores.layer[2] > 0.2
    assert scores.meta["never"] == pytest.approx(1 - counts.sum() / total, abs=1e-6)
    assert scores.meta["depth"] == pytest.approx((counts @ np.arange(1, 5)) / counts.sum(), rel=1e-5)


@torch.no_grad()
def test_sensitivity_is_the_divergence_after_the_same_disturbance():
    model, task = make("gpt2"), sums(4, batch_size=3)
    watch = Watch(model, task)
    drawn = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    expected = []
    for i in range(2):
        direction = 0.3 * drawn[i] / drawn[i].norm()
        module = model.get_submodule(watch.anatomy.layer_module(i))

        def disturb(m, args, kwargs, out, d=direction):
            before = args[0] if args else kwargs["hidden_states"]
            after = out[0] if isinstance(out, tuple) else out
            after = after + (after - before).norm(dim=-1, keepdim=True) * d
            return (after, *out[1:]) if isinstance(out, tuple) else after

        handle = module.register_forward_hook(disturb, with_kwargs=True)
        changed = Watch(model, task)
        handle.remove()
        divergence = []
        for (text, at, _), other in zip(answered(watch), changed.texts, strict=True):
            p, q = text["logits"][at].log_softmax(1), other["logits"][at].log_softmax(1)
            divergence.append(float((p.exp() * (p - q)).sum(1).mean()))
        expected.append(np.mean(divergence))
    scores = localize(model, task, "sensitivity", None, noise=0.3, seed=5)
    close(scores.layer, expected, 1e-3)
