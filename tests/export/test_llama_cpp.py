"""llama.cpp itself loads a GGUF file of ours, and says what transformers says.

Runs where ``pip install xllamacpp`` (a wheel with llama.cpp in it) was done and the embedded model is installed.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

from guided_ft import Anatomy, Plan, Selection, load_model, load_tokenizer
from guided_ft.export import to_gguf
from guided_ft.system.places import EMBEDDED
from guided_ft.task.answers import answers

NAME, LENGTH = "smollm2-135m-instruct", 24
PROMPTS = ("The capital of France is", "def add(a, b):\n    ", "Once upon a time, 12345 birds didn't")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained():
    """The embedded model with an adapter that says something."""
    pytest.importorskip("xllamacpp")
    if importlib.util.find_spec(EMBEDDED[NAME][0]) is None:
        pytest.skip("the embedded model is not installed")
    model = load_model(NAME)
    part = Plan(Selection.parse("L12.H0 L12.H1 L12.H2 L20.N7", Anatomy.of(model))).attach(model).eval()
    torch.manual_seed(0)
    for name, parameter in part.named_parameters():
        if "slice_delta" in name:
            parameter.data.normal_(0, 0.02)
    return part, load_tokenizer(NAME)


def test_it_says_what_transformers_says(trained, tmp_path):
    import xllamacpp

    model, tokenizer = trained
    ours = answers(model, tokenizer, PROMPTS, max_new_tokens=LENGTH)
    with model.disable_adapter():
        assert answers(model, tokenizer, PROMPTS, max_new_tokens=LENGTH) != ours
    to_gguf(model, tokenizer, tmp_path / "model.gguf")
    params = xllamacpp.CommonParams()
    params.model.path = str(tmp_path / "model.gguf")
    params.n_ctx, params.n_parallel, params.warmup = 256, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    # As exact as ours.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    asked = {"max_tokens": LENGTH, "temperature": 0.0, "repeat_penalty": 1.0}
    theirs = [server.handle_completions({**asked, "prompt": p})["choices"][0]["text"].strip() for p in PROMPTS]
    assert theirs == ours
