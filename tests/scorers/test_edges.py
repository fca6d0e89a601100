"""Edges: each score against the derivative of the loss by a change at that one connection, and the circuit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import make
from scoring import pairs, sums
from transformers import AutoConfig

from guided_ft import localize
from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError
from guided_ft.proofs.replica import replica_of_config
from guided_ft.scorers.methods.circuit import Edges
from guided_ft.scorers.methods.edges import edges

NORMS = {
    "llama": ("input_layernorm", "post_attention_layernorm"),
    "qwen3": ("input_layernorm", "post_attention_layernorm"),
    "phi3": ("input_layernorm", "post_attention_layernorm"),
    "gpt2": ("ln_1", "ln_2"),
    "gpt_neox": ("input_layernorm", "post_attention_layernorm"),
    "opt": ("self_attn_layer_norm", "final_layer_norm"),
    "gemma2": ("input_layernorm", "pre_feedforward_layernorm"),
    "olmo2": (None, None),
}
POST = ("post_attention_layernorm", "post_feedforward_layernorm")


def written(model, batch, ids):
    """What each source writes to the residual stream ``[sources][rows, tokens, width]``, one plain forward pass."""
    a = Anatomy.of(model)
    seen: dict = {}

    def keep(key):
        def hook(module, args, kwargs, output):
            seen[key] = (args[0] if args else kwargs["hidden_states"], output)

        return hook

    handles = []
    for i in range(a.num_layers):
        for key, name in (("z", a.out_module(i)), ("mlp", a.down_module(i)), ("layer", a.layer_module(i))):
            handles.append(model.get_submodule(name).register_forward_hook(keep((key, i)), with_kwargs=True))
    with torch.no_grad():
        model(input_ids=ids, attention_mask=batch["attention_mask"])
    for handle in handles:
        handle.remove()
    shape = batch["input_ids"].shape
    found = [seen["layer", 0][0]]
    for i in range(a.num_layers):
        out, layer = model.get_submodule(a.out_module(i)), model.get_submodule(a.layer_module(i))
        z, o = seen["z", i]
        post = [getattr(layer, n) if a.family.post_norms[0] else None for n in POST]
        weight = out.weight.detach().T if a.rows_axis == 0 else out.weight.detach()  # [heads * dim, width]
        for h in range(a.num_heads):
            part = slice(h * a.head_dim, (h + 1) * a.head_dim)
            one = z[..., part] @ weight[part]
            found.append(one * (post[0](o) / o) if post[0] else one)
        mlp = seen["mlp", i][1].reshape(*shape, -1)
        found.append(post[1](mlp) if post[1] else mlp)
    return [x.detach() for x in found]


def brute(model, task, family, corrupted, shares=(1.0,)):
    """d loss / d (how much of a source's change is added to what one target reads), for all edges."""
    a, batch = Anatomy.of(model), next(task.batches())
    clean = written(model, batch, batch["input_ids"])
    other = written(model, batch, batch["corrupted_ids"]) if corrupted else None
    change = torch.stack([o - c for o, c in zip(other, clean, strict=True)] if corrupted else [-c for c in clean])
    embed = model.get_input_embeddings()
    with torch.no_grad():
        start = embed(batch["corrupted_ids"]) if corrupted else 0
    found = np.zeros((Edges.num_sources(a), Edges.num_targets(a)))
    heads, groups = a.num_heads, a.num_groups
    wide = heads + 2 * groups + 1

    def loss_with(eps, place, names, rows):
        """Add ``eps . change`` to the stream that ``names`` read, for some of their output rows only."""
        handles, held = [], {}

        def moved(norm, stream):
            shifted = stream + torch.einsum("s,srtw->rtw", eps, change)
            return shifted if norm is None else norm.forward(shifted)

        layer = model.get_submodule(a.layer_module(place[0])) if place else None
        if place is None:
            norm = next(
                getattr(model.get_decoder(), n)
                for n in ("norm", "ln_f", "final_layer_norm")
                if hasattr(model.get_decoder(), n)
            )
            handles.append(norm.register_forward_pre_hook(lambda m, args: (moved(None, args[0]),)))
        else:
            name = NORMS[family][place[1]]
            norm = getattr(layer, name) if name else None
            reads = norm if norm is not None else layer.get_submodule(names[0])
            handles.append(
                reads.register_forward_pre_hook(lambda m, args: held.setdefault("stream", args[0]) * 0 + args[0])
            )
            for each in names:

                def hook(m, args, out):
                    stream = held["stream"]
                    flat = args[0].dim() == 2
                    new = moved(norm, stream.reshape(change.shape[1:]))
                    y = m.forward(new.reshape(args[0].shape) if flat else new)
                    if rows is None:
                        return y
                    mask = torch.zeros(y.shape[-1])
                    mask[rows] = 1
                    return out + (y - out) * mask

                handles.append(layer.get_submodule(each).register_forward_hook(hook))
        try:
            return task.loss(task.quantity(model, batch)).mean()
        finally:
            for handle in handles:
                handle.remove()

    def column(place, names, rows):
        total = 0
        for share in shares:
            handle = embed.register_forward_hook(lambda m, args, out, s=share: start + s * (out - start))
            eps = torch.zeros(len(change), requires_grad=True)
            (grad,) = torch.autograd.grad(loss_with(eps, place, names, rows), eps)
            handle.remove()
            total = total + grad.double().numpy() / len(shares)
        return total

    f = a.family
    for i in range(a.num_layers):
        at = i * wide
        for offset, part, count in ((0, f.query, heads), (heads, f.key, groups), (heads + groups, f.value, groups)):
            for item in range(count):
                found[:, at + offset + item] = column((i, 0), [part.module], torch.as_tensor(a.head_rows(part)[item]))
        found[:, at + wide - 1] = column((i, 1), list(dict.fromkeys(r.module for r in f.up)), None)
    found[:, -1] = column(None, [], None)
    return found


@pytest.mark.parametrize("family", list(NORMS))
def test_every_edge_is_the_derivative_at_that_connection(family):
    model, task = make(family).requires_grad_(False), pairs(3)
    parallel = family == "gpt_neox"
    a = Anatomy.of(model)
    exists = Edges.possible(a, parallel)
    for corrupted in (False, True):
        found = edges(model, task, replace="corrupted" if corrupted else "zero")
        expected = brute(model, task, family, corrupted) * exists
        assert np.array_equal(found.exists, exists)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found.scores, expected, atol=2e-4 * scale)
        assert (np.abs(expected[exists]) > 0).mean() > 0.8


@pytest.mark.parametrize(("family", "parallel"), [("gptj", True), ("phi", True), ("cohere", True), ("llama", False)])
def test_where_attention_and_mlp_read_the_same_stream_no_edge_joins_them(family, parallel):
    model = replica_of_config(AutoConfig.for_model(family)).requires_grad_(False)
    found = edges(model, pairs(3), replace="zero")
    assert found.exists[found.sources.index("L0.H0"), found.targets.index("L0.MLP")] == (not parallel)
    assert np.array_equal(found.exists, Edges.possible(found.anatomy, parallel))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_edges_along_a_path(family):
    model, task = make(family).requires_grad_(False), pairs(3)
    found = edges(model, task, replace="corrupted", steps=3)
    expected = brute(model, task, family, True, shares=(1 / 3, 2 / 3, 1.0)) * found.exists
    np.testing.assert_allclose(found.scores, expected, atol=2e-4 * np.abs(expected).max())
    assert not np.allclose(found.scores, edges(model, task, replace="corrupted").scores)


def test_edges_into_the_logits_of_heads_add_up_to_their_attribution():
    """What a head does is what it does through all who read it: its outgoing edges, while the rest stands still."""
    model, task = make("llama"), sums(4)
    found = edges(model, task)
    # The last layer's MLP and the logits are all that reads the last layer's heads.
    signed = localize(model, task, "attribution", None, signed=True)
    out = found.scores[1 + 5 : 1 + 5 + 4].sum(1)
    np.testing.assert_allclose(out, signed.head[1], rtol=1e-4)
    # An earlier head is read directly by all that follows, and attribution counts every path: the direct edges to
    # all readers of the stream are the whole of it.
    np.testing.assert_allclose(found.scores[1:5].sum(1), signed.head[0], rtol=1e-3, atol=1e-6)


def hand_made() -> Edges:
    """Two layers of two heads in one group, with a chain embed -> L0.H1 -> L1.MLP -> logits, and strays."""
    anatomy = Anatomy.of(make("llama"))
    import dataclasses

    config = dict(num_heads=2, num_groups=1, head_dim=16, shapes=anatomy.shapes)
    anatomy = dataclasses.replace(anatomy, **config)
    exists = Edges.possible(anatomy, False)
    e = Edges(anatomy, np.zeros(exists.shape), exists)
    names = {n: i for i, n in enumerate(e.sources)}, {n: i for i, n in enumerate(e.targets)}

    def put(source, target, score):
        s, t = names[0][source], names[1][target]
        assert exists[s, t], (source, target)
        e.scores[s, t] = score

    put("embed", "L0.G0.v", -5)  # the group of both heads
    put("L0.H1", "L1.MLP", 4)
    put("L1.MLP", "logits", 3)
    put("L0.H0", "L1.H0.q", 6)  # leads to a head that nobody reads
    put("L1.H1", "logits", -7)  # of a head that nothing reaches
    return e


def test_the_circuit_is_what_leads_from_the_embeddings_to_the_logits():
    e = hand_made()
    assert [(s, t) for s, t, _ in e.top(2)] == [("L1.H1", "logits"), ("L0.H0", "L1.H0.q")]
    nodes = e.nodes(5)
    assert nodes["head"].tolist() == [[0, 4], [0, 0]]
    assert nodes["layer"].tolist() == [4, 3]
    assert e.circuit(5).sum() == 3
    # Without its first step the chain leads nowhere.
    assert e.circuit(2).sum() == 0


def test_a_group_feeds_its_own_heads_only():
    """Four heads in two groups: what reaches the second group's values reaches heads 2 and 3, not 0 and 1."""
    anatomy = Anatomy.of(make("llama"))
    exists = Edges.possible(anatomy, False)
    e = Edges(anatomy, np.zeros(exists.shape), exists)
    sources, targets = e.sources, e.targets
    for source, target in (("embed", "L0.G1.v"), *((f"L0.H{h}", "logits") for h in range(4))):
        e.scores[sources.index(source), targets.index(target)] = 2.0
    assert e.nodes(5)["head"].tolist() == [[0, 0, 2, 2], [0, 0, 0, 0]]


def test_edges_go_forward_only():
    e = hand_made()
    sources, targets = e.sources, e.targets
    assert (len(sources), len(targets)) == e.scores.shape == (7, 11)
    at = {name: i for i, name in enumerate(targets)}, {name: i for i, name in enumerate(sources)}
    assert e.exists[at[1]["L0.H0"], at[0]["L0.MLP"]]
    assert not e.exists[at[1]["L0.H0"], at[0]["L0.H1.q"]]
    assert not e.exists[at[1]["L0.MLP"], at[0]["L0.MLP"]]
    assert e.exists[at[1]["L0.MLP"], at[0]["L1.G0.k"]]
    assert not Edges.possible(e.anatomy, True)[at[1]["L0.H0"], at[0]["L0.MLP"]]


def test_keep_counts_or_shares():
    e = hand_made()
    total = int(e.exists.sum())
    assert e.kept(0.5).sum() == round(total / 2)
    assert e.kept(3).sum() == e.kept(3.0).sum() == 3
    assert e.kept(1).sum() == 1
    assert e.kept(1.0).sum() == total
    assert (e.kept(3) & ~e.exists).sum() == 0
    for wrong in (0, -1, total + 1, True, 1e-9):
        with pytest.raises(GuidedError, match="keep"):
            e.kept(wrong)


def test_a_post_norm_opt_is_refused():
    from transformers import AutoConfig, AutoModelForCausalLM

    config = make("opt").config.to_dict() | {"do_layer_norm_before": False}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager")
    for method in ("eap", "logit_lens", "direct_logit"):
        with pytest.raises(GuidedError, match="do_layer_norm_before=false"):
            localize(model, sums(2), method, None)


def test_scores_of_nodes_are_those_of_the_circuit():
    model, task = make("llama"), sums(4)
    scores = localize(model, task, "eap", None, keep=0.5)
    nodes = edges(model, task).nodes(0.5)
    np.testing.assert_allclose(scores.head, nodes["head"], rtol=1e-6)
    np.testing.assert_allclose(scores.layer, nodes["layer"], rtol=1e-6)
    assert len(scores.meta["edges"]) == 50
    assert (scores.head > 0).any()
