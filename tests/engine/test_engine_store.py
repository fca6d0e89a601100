"""The store of hidden states: bounded, oldest out, and never another entry's states."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from guided_ft.engine.store import HEADER_BYTES, PrefixStore, clear_others

WIDTH = 4
TOKEN = WIDTH * 4


def states(tokens: int, value: float) -> torch.Tensor:
    return torch.full((tokens, WIDTH), float(value)) + torch.arange(tokens)[:, None] / 100


def test_what_is_put_comes_back(tmp_path):
    store = PrefixStore(tmp_path, WIDTH, torch.float32, 1 << 16)
    store.put("a", states(3, 1))
    store.put("b", states(5, 2))
    assert torch.equal(store.get("a"), states(3, 1))
    assert torch.equal(store.get("b"), states(5, 2))
    assert store.get("c") is None


def test_bf16_states_keep_their_bits(tmp_path):
    store = PrefixStore(tmp_path, WIDTH, torch.bfloat16, 1 << 16)
    values = torch.randn(6, WIDTH).to(torch.bfloat16)
    store.put("a", values)
    assert store.get("a").dtype == torch.bfloat16
    assert torch.equal(store.get("a"), values)


def test_states_are_never_rounded(tmp_path):
    store = PrefixStore(tmp_path, WIDTH, torch.bfloat16, 1 << 16)
    store.put("a", torch.randn(6, WIDTH))
    assert store.get("a") is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
def test_never_over_the_limit_and_oldest_out(sizes):
    store = PrefixStore(None, WIDTH, torch.float32, 20 * TOKEN)
    for i, tokens in enumerate(sizes):
        store.put(str(i), states(tokens, i))
        alive = [j for j in range(i + 1) if store.get(str(j)) is not None]
        assert alive[-1] == i
        assert alive == list(range(alive[0], i + 1)), "an older one outlived a younger one"
        for j in alive:
            assert torch.equal(store.get(str(j)), states(sizes[j], j))
    assert sum(sizes[j] for j in alive) <= 20


def test_a_state_longer_than_the_ring_is_not_kept():
    store = PrefixStore(None, WIDTH, torch.float32, 4 * TOKEN)
    store.put("a", states(2, 1))
    store.put("b", states(5, 2))
    assert store.get("b") is None
    assert torch.equal(store.get("a"), states(2, 1))


def test_it_goes_on_in_a_new_process(tmp_path):
    store = PrefixStore(tmp_path, WIDTH, torch.float32, 6 * TOKEN)
    for name, value in (("a", 1), ("b", 2), ("c", 3)):
        store.put(name, states(2, value))
    store.close()
    again = PrefixStore(tmp_path, WIDTH, torch.float32, 6 * TOKEN)
    assert torch.equal(again.get("b"), states(2, 2))
    again.put("d", states(2, 4))
    assert again.get("a") is None
    assert torch.equal(again.get("c"), states(2, 3))
    file = load_file(tmp_path / "hidden.safetensors")
    assert file["hidden"].shape == (6, WIDTH)
    assert torch.equal(file["hidden"][:2], states(2, 4))


def test_a_ring_that_is_not_full_goes_on_behind_its_newest_entry(tmp_path):
    for value, name in enumerate("abc"):
        store = PrefixStore(tmp_path, WIDTH, torch.float32, 100 * TOKEN)
        store.put(name, states(2, value))
        store.close()
    again = PrefixStore(tmp_path, WIDTH, torch.float32, 100 * TOKEN)
    assert all(torch.equal(again.get(name), states(2, value)) for value, name in enumerate("abc"))


def test_with_a_smaller_limit_it_goes_on_in_a_smaller_file(tmp_path):
    store = PrefixStore(tmp_path, WIDTH, torch.float32, 9 * TOKEN)
    for name, value in (("a", 1), ("b", 2), ("c", 3)):
        store.put(name, states(3, value))
    store.close()
    again = PrefixStore(tmp_path, WIDTH, torch.float32, 7 * TOKEN)
    assert again.path.stat().st_size == HEADER_BYTES + 7 * TOKEN
    assert again.get("c") is None
    assert torch.equal(again.get("b"), states(3, 2))
    again.put("d", states(3, 4))
    assert again.get("a") is None
    again.close()
    assert load_file(tmp_path / "hidden.safetensors")["hidden"].shape == (7, WIDTH)
    PrefixStore(tmp_path, WIDTH, torch.float32, 0)
    assert (tmp_path / "hidden.safetensors").stat().st_size == HEADER_BYTES


def test_what_was_overwritten_after_the_index_was_written_is_not_believed(tmp_path):
    store = PrefixStore(tmp_path, WIDTH, torch.float32, 4 * TOKEN)
    store.put("a", states(2, 1))
    store.put("b", states(2, 2))
    store.flush()
    store.put("c", states(2, 3))
    again = PrefixStore(tmp_path, WIDTH, torch.float32, 4 * TOKEN)
    assert again.get("a") is None
    assert torch.equal(again.get("b"), states(2, 2))


def test_a_damaged_index_is_an_empty_store(tmp_path):
    for text in ("", "key,start\n1,2\n", "key,start,tokens,crc32\na,-1,2,3\nb,0,9999,1\n", "\x00"):
        store = PrefixStore(tmp_path, WIDTH, torch.float32, 4 * TOKEN)
        store.put("a", states(1, 1))
        (tmp_path / "index.csv").write_text(text)
        assert len(PrefixStore(tmp_path, WIDTH, torch.float32, 4 * TOKEN)) == 0


def test_a_full_disk_is_a_limit_and_where_nothing_fits_it_goes_on_without(tmp_path, monkeypatch, caplog):
    import os

    from guided_ft.engine import store as module

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "FIRST_BYTES", 4 * TOKEN)
    store = PrefixStore(tmp_path / "a", WIDTH, torch.float32, 100 * TOKEN)
    store.put("a", states(4, 1))
    monkeypatch.setattr(os, "posix_fallocate", full)
    store.put("b", states(2, 2))
    assert store.get("a") is None
    assert torch.equal(store.get("b"), states(2, 2))
    without = PrefixStore(tmp_path / "b", WIDTH, torch.float32, 100 * TOKEN)
    without.put("a", states(1, 1))
    assert without.get("a") is None
    without.close()
    assert f"no room for it in {tmp_path / 'b'} (No space left on device), it goes on without" in caplog.text
    monkeypatch.setattr("guided_ft.engine.store.write_text", full)
    store.flush()
    assert f"{tmp_path / 'a' / 'index.csv'} cannot be written (No space left on device)" in caplog.text
    assert torch.equal(store.get("b"), states(2, 2)), "what is kept stays in use"


def test_only_one_model_is_kept(tmp_path):
    for name in ("old", "new"):
        PrefixStore(tmp_path / name, WIDTH, torch.float32, 4 * TOKEN).put("a", states(1, 1))
    clear_others(tmp_path, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
