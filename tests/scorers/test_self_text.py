"""Text of the model's own."""

from __future__ import annotations

from families import VOCAB, make
from untouched import equal, prepared, state_of

from guided_ft.scorers.self_text import self_text


def test_self_text_repeats_with_its_seed_and_leaves_the_model_alone():
    model = prepared("llama")
    before = state_of(model)
    a, b, c = (self_text(model, num_examples=5, num_tokens=12, seed=s) for s in (0, 0, 1))
    assert equal(state_of(model), before)
    assert a.examples == b.examples != c.examples
    assert all(0 <= i < VOCAB for e in a.examples for i in e[0].ids)
    assert all(9 <= len(e[0].ids) <= 13 for e in a.examples)


def test_self_text_is_a_sample_whatever_the_models_own_settings():
    model = make("llama")
    plain = self_text(model, num_examples=4, num_tokens=20)
    for name, value in {"repetition_penalty": 5.0, "min_p": 0.9, "no_repeat_ngram_size": 1}.items():
        before = getattr(model.generation_config, name)
        setattr(model.generation_config, name, value)
        assert self_text(model, num_examples=4, num_tokens=20).examples == plain.examples, name
        setattr(model.generation_config, name, before)
