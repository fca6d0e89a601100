"""The map of directions against dense eigenproblems in float64, and how it is computed in parts."""

from __future__ import annotations

import numpy as np
import pytest
import quantized
import torch
from families import make
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from refusing import refuses
from scoring import preferences, sums
from untouched import equal, prepared, state_of

from guided_ft import localize_directions
from guided_ft.anatomy import Anatomy, stored_weight
from guided_ft.errors import GuidedError
from guided_ft.scorers.directions import localize as module
from guided_ft.scorers.directions.solve import factorized, top_directions
from guided_ft.selection import spend
from guided_ft.selection.spend import select_directions

LAM = 0.01


def dense_gradients(model, anatomy, task) -> dict[str, np.ndarray]:
    """The mean loss's gradient of each weight ``[out, in]``, by autograd."""
    names = [anatomy.module(i, rel) for i in range(anatomy.num_layers) for rel in anatomy.shapes]
    weights = [stored_weight(model, name) for name in names]
    total = torch.cat([task.loss(task.quantity(model, batch)) for batch in task.batches()]).mean()
    found = torch.autograd.grad(total, weights)
    flip = anatomy.family.transposed
    return {n: (g.T if flip else g).double().numpy() for n, g in zip(names, found, strict=True)}


def dense_moments(model, names, retain) -> dict[str, np.ndarray]:
    """``C`` without ``lam * I``, from each layer's own input, text by text."""
    found = {name: 0.0 for name in names}
    for example in retain.examples:
        handles = []
        for name in names:

            def hook(m, args, name=name):
                x = args[0].reshape(-1, args[0].shape[-1]).double()
                found[name] += (x.T @ x).numpy()

            handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
        with torch.no_grad():
            model(torch.tensor([example[0].ids]))
        for handle in handles:
            handle.remove()
    return {name: c / np.trace(c) * len(c) for name, c in found.items()}


def generalized_eigenvalues(a: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Of ``a v = lambda c v``, falling, by the symmetric root of ``c``."""
    values, vectors = np.linalg.eigh(c)
    root = vectors / np.sqrt(values) @ vectors.T
    return np.linalg.eigvalsh(root @ a @ root)[::-1]


def check_against_dense(found, gradients, moments, lam=LAM, rtol=2e-3):
    for name, g in gradients.items():
        c = np.eye(g.shape[1]) if moments is None else moments[name] + lam * np.eye(g.shape[1])
        count = len(found.scores[name])
        true = generalized_eigenvalues(g.T @ g, c)[:count]
        scale = true[0]
        np.testing.assert_allclose(found.scores[name], true, rtol=rtol, atol=rtol * scale, err_msg=name)
        # An output's share is its part of the gradient along all of them.
        along = found.bases[name].astype(np.float64) @ g.T
        length = np.einsum("ki,ij,kj->k", found.bases[name], c, found.bases[name])
        shares = (along**2 / length[:, None]).sum(0)
        np.testing.assert_allclose(found.rows[name], shares, rtol=rtol, atol=rtol * scale, err_msg=name)
        # Each direction is worth its score, whatever lies close to it.
        a = found.bases[name].astype(np.float64)
        worth = ((a @ g.T) ** 2).sum(1) / np.einsum("ki,ij,kj->k", a, c, a)
        np.testing.assert_allclose(worth, true, rtol=rtol, atol=rtol * scale, err_msg=name)
        # And they are independent in C, so that they are the eigenvectors and not one of them again and again.
        inside = a @ c @ a.T
        inside /= np.sqrt(np.outer(np.diag(inside), np.diag(inside)))
        np.testing.assert_allclose(inside, np.eye(count), atol=5e-3, err_msg=name)


def test_every_family_against_dense_eigenproblems(family):
    model, task, retain = make(family), sums(5, batch_size=3), sums(7, batch_size=4, first=9)
    anatomy = Anatomy.of(model)
    found = localize_directions(model, task, retain, max_rank=6)
    gradients = dense_gradients(model, anatomy, task)
    assert set(found.modules) == set(gradients)
    check_against_dense(found, gradients, dense_moments(model, found.modules, retain))


def test_one_sided_and_preferences():
    model, task = make("llama"), preferences(4, batch_size=3)
    anatomy = Anatomy.of(model)
    gradients = dense_gradients(model, anatomy, task)
    found = localize_directions(model, task, None, max_rank=5)
    check_against_dense(found, gradients, None)
    assert found.meta["retain"] is None
    assert "one-sided" in repr(found)
    retain = sums(6, first=3)
    two_sided = localize_directions(model, task, retain, max_rank=5, lam=0.1)
    check_against_dense(two_sided, gradients, dense_moments(model, found.modules, retain), lam=0.1)
    assert two_sided.compare(found, 5)["overlap"] < 0.9


def test_the_map_holds_enough_for_the_budget(caplog, monkeypatch):
    monkeypatch.setattr(spend, "LEAST", 1)
    caplog.set_level("WARNING", logger="guided_ft")
    model, task = make("llama"), sums(4)
    default, wide = (localize_directions(model, task, None, **asked) for asked in ({}, {"budget": "45%"}))
    assert default.meta["max_rank"] == localize_directions(model, task, None, budget="1%").meta["max_rank"]
    assert default.meta["max_rank"] < wide.meta["max_rank"]
    unspent, spent = (0.45 - select_directions(each, "45%").fraction for each in (default, wide))
    assert unspent > 0.1 > 0.01 > spent >= 0
    assert caplog.text.count(f"max_rank={wide.meta['max_rank']})") == 1


def test_groups_and_exact_agree():
    model, task, retain = make("llama", layers=3), sums(5), sums(7, first=9)
    together = localize_directions(model, task, retain, max_rank=6)
    apart = localize_directions(model, task, retain, max_rank=6, memory=1)
    exact = localize_directions(model, task, retain, max_rank=6, exact=True)
    assert (together.meta["groups"], apart.meta["groups"]) == (1, 3)
    assert apart.meta["passes"] == 3 * together.meta["passes"]
    for other in (apart, exact):
        assert together.compare(other, 6)["angle"] < 2
        for name in together.modules:
            np.testing.assert_allclose(other.scores[name], together.scores[name], rtol=1e-3)


def test_the_range_finder_agrees_with_the_full_decomposition():
    torch.manual_seed(0)
    decay = torch.arange(1, 201.0) ** -1.0
    g = torch.randn(300, 200) * decay
    x = torch.randn(500, 200) * decay.flip(0).sqrt()
    factor = factorized(x.T @ x, 0.01)
    exact, values, rows = top_directions(g, factor, 16, exact=True)
    found, estimates, shares = top_directions(g, factor, 16, seed=3)
    torch.testing.assert_close(estimates, values, rtol=5e-3, atol=0)
    torch.testing.assert_close(shares, rows, rtol=2e-2, atol=1e-3 * float(rows.max()))
    assert float(rows.sum()) == pytest.approx(float(values.sum()), rel=1e-5)
    q, p = (torch.linalg.qr(a.T.double())[0] for a in (exact, found))
    assert torch.linalg.matrix_norm(p - q @ (q.T @ p), 2) < 0.1
    assert torch.equal(top_directions(g, factor, 16, seed=3)[0], found)


def test_nothing_is_left_behind():
    model = prepared("llama")
    before, bits = state_of(model), [p.detach().clone() for p in model.parameters()]
    localize_directions(model, sums(3), "self", max_rank=2)
    assert equal(state_of(model), before)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), bits, strict=True))


def test_statistics_of_retained_text_are_kept(tmp_path, monkeypatch):
    model, task = make("llama"), sums(4)
    fresh = localize_directions(model, task, "self", max_rank=4)
    first = localize_directions(model, task, "self", max_rank=4, cache=tmp_path)
    asked = []
    compute = module.second_moments
    monkeypatch.setattr(module, "second_moments", lambda *args: asked.append(args) or compute(*args))
    monkeypatch.setattr(module, "self_text", lambda *args, **options: pytest.fail("sampled again"))
    other_task = localize_directions(model, sums(4, first=20), "self", max_rank=4, cache=tmp_path)
    again = localize_directions(model, task, "self", max_rank=4, cache=tmp_path)
    assert not asked
    assert again.hash == first.hash == fresh.hash != other_task.hash
    # A damaged file is made anew, and so is what belongs to another model or another text.
    kept = next(tmp_path.glob("*/*.safetensors"))
    kept.write_bytes(kept.read_bytes()[:-8])
    assert localize_directions(model, task, "self", max_rank=4, cache=tmp_path).hash == first.hash
    assert len(asked) == 1
    localize_directions(model, task, sums(4, first=30), max_rank=4, cache=tmp_path)
    localize_directions(make("llama", seed=1), task, sums(4, first=30), max_rank=4, cache=tmp_path)
    assert len(asked) == 3


def test_statistics_are_of_one_way_to_run_the_weights(tmp_path):
    """Oracle: the map that is made without a cache. The same weights are run with each of these settings."""
    task, retain = sums(4), sums(4, first=30)
    model = make("mistral")
    hashes = set()
    for window in (4, 2, 4):
        model.config.sliding_window = window
        kept = localize_directions(model, task, retain, max_rank=4, cache=tmp_path)
        assert kept.hash == localize_directions(model, task, retain, max_rank=4).hash
        hashes.add(kept.hash)
    assert len(hashes) == 2
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("wrap", [get_peft_model, lambda model, config: inject_adapter_in_model(config, model)])
def test_statistics_of_a_model_with_adapters_are_not_kept(tmp_path, monkeypatch, wrap):
    """Two adapters on the same weights say other things, and so does one of another scale."""
    monkeypatch.setattr(module, "SELF_TEXTS", 4)
    task, retain = sums(4), sums(4, first=30)
    plain = localize_directions(make("llama"), task, retain, max_rank=4, cache=tmp_path)
    hashes = {plain.hash}
    for seed, alpha in ((0, 8), (1, 8), (1, 16)):
        config = LoraConfig(r=4, lora_alpha=alpha, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        model = make("llama")
        torch.manual_seed(seed)
        model = wrap(model, config).eval()
        for text in (retain, "self"):
            kept = localize_directions(model, task, text, max_rank=4, cache=tmp_path)
            assert kept.hash == localize_directions(model, task, text, max_rank=4).hash
            hashes.add(kept.hash)
    assert len(hashes) == 7
    assert localize_directions(make("llama"), task, retain, max_rank=4, cache=tmp_path).hash == plain.hash


def test_quantized_layers_have_directions(tmp_path):
    model, task, retain = quantized.load("llama", "nf4", tmp_path), sums(4), sums(4, first=9)
    found = localize_directions(model, task, retain, max_rank=4)
    from guided_ft.slice.storage import dequantize

    dequantize(model)
    plain = localize_directions(model, task, retain, max_rank=4)
    for name in plain.modules:
        np.testing.assert_allclose(found.scores[name], plain.scores[name], rtol=0.05)


def test_experts_are_refused_by_name_and_the_rest_of_their_model_is_not(moe_family):
    model, task = make(moe_family), sums(3)
    with pytest.raises(GuidedError, match=r"mlp\.experts\.gate_up_proj belongs to experts"):
        localize_directions(model, task, None)
    anatomy = Anatomy.of(model)
    name = anatomy.module(1, "self_attn.k_proj")
    assert localize_directions(model, task, None, modules=[name], max_rank=3).modules == (name,)


def test_a_layers_map_does_not_depend_on_the_others():
    model, task, retain = make("gpt2"), sums(3), sums(3, first=5)
    whole = localize_directions(model, task, retain, max_rank=3)
    name = whole.modules[2]
    alone = localize_directions(model, task, retain, max_rank=3, modules=[name])
    np.testing.assert_allclose(alone.bases[name], whole.bases[name], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": 0}, "lam: 0 is not above 0"),
        ({"lam": float("nan")}, "lam: nan"),
        ({"max_rank": 0}, "max_rank: expected"),
        ({"modules": []}, "modules: empty"),
        ({"modules": ["lm_head"]}, "no layer 'lm_head'"),
        ({"retain": "me"}, "retain"),
        ({"retain": [sums(1), sums(1)]}, "retain: 2 sets, but a map of directions is held against one"),
        ({"memory": "much"}, "much"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(GuidedError, match=message):
        localize_directions(make("llama"), sums(2), **{"retain": None, **options})


def test_a_share_that_is_lost_in_rounding_is_named():
    """Fewer tokens than dimensions: without a share of I their statistics have no inverse."""
    few = {"retain": sums(1, first=9), "max_rank": 4}
    with refuses("lam: 1e-08 is lost in rounding (use 1e-4 or more, or retain more text)"):
        localize_directions(make("llama"), sums(4), lam=1e-8, **few)
    assert len(localize_directions(make("llama"), sums(4), lam=1e-4, **few).modules) == 14
