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
    own = {
        "repetition_penalty": 5.0,
        "min_p": 0.9,
        "no_repeat_ngram_size": 1,
        "num_beams": 3,
        "typical_p": 0.1,
        "epsilon_cutoff": 0.1,
        "eta_cutoff": 0.5,
        "suppress_tokens": list(range(3, 90)),
        "return_dict_in_generate": True,
        "num_return_sequences": 2,
    }
    for name, value in own.items():
        before = getattr(model.generation_config, name)
        setattr(model.generation_config, name, value)
        assert self_text(model, num_examples=4, num_tokens=20).examples == plain.examples, name
        assert getattr(model.generation_config, name) == value
        setattr(model.generation_config, name, before)


def test_self_text_ends_where_the_model_says_so():
    model = make("llama")
    long = self_text(model, num_examples=8, num_tokens=40)
    model.generation_config.eos_token_id = [2, *range(3, 60)]
    short = self_text(model, num_examples=8, num_tokens=40)
    assert sum(len(e[0].ids) for e in short.examples) < sum(len(e[0].ids) for e in long.examples) / 2
