"""What is no causal language model is refused by class, before anything is touched."""

from __future__ import annotations

import pytest
import tiny
import torch
from families import FAMILIES, make
from refusing import refuses
from trainers import MODES, ready, settings
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Trainer,
    TrainingArguments,
)
from trl import RewardConfig, RewardTrainer
from untouched import state_of

from guided_ft import Anatomy, GuidedCallback, Task, localize
from guided_ft.errors import GuidedError

KINDS = [AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModelForQuestionAnswering]


def other(kind):
    config = AutoConfig.for_model("llama", **FAMILIES["llama"])
    config.pad_token_id, config.num_labels = 0, 1 if kind is AutoModelForSequenceClassification else 2
    return kind.from_config(config)


def refusal(model) -> str:
    return (
        f"model: {type(model).__name__} has no language-model head, and another head would stay as it is (only causal "
        "language models are trained: load one with AutoModelForCausalLM)"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_other_heads_are_refused_by_class_in_every_way_in(kind):
    model, task = other(kind), Task.from_dataset(tiny.sums(4), tiny.tokenizer())
    before, names = state_of(model)[:3], list(dict(model.named_modules()))
    ways = [lambda: Anatomy.of(model), lambda: localize(model, task)]
    ways += [lambda mode=mode: ready(make("llama"), mode).attach(model) for mode in MODES]
    for way in ways:
        with refuses(refusal(model)):
            way()
        assert state_of(model)[:3] == before
        assert list(dict(model.named_modules())) == names


@pytest.mark.parametrize("mode", MODES)
def test_a_callback_leaves_a_classifier_alone(mode, tmp_path):
    model = other(AutoModelForSequenceClassification)
    before = state_of(model)[:3]
    callback = GuidedCallback(ready(make("llama"), mode))
    with refuses(refusal(model)):
        Trainer(model, args=TrainingArguments(**settings(tmp_path)), train_dataset=[], callbacks=[callback])
    assert state_of(model)[:3] == before
    assert not hasattr(model, "peft_config")
    with refuses(refusal(model)):
        RewardTrainer(
            model,
            args=RewardConfig(**settings(tmp_path), bf16=False),
            train_dataset=tiny_pairs(),
            processing_class=tiny.tokenizer(),
            callbacks=[GuidedCallback(ready(make("llama"), mode))],
        )
    assert not hasattr(model, "peft_config")


def tiny_pairs():
    from datasets import Dataset

    return Dataset.from_list(tiny.pairs(8))


def test_what_is_around_a_model_is_named():
    model = make("llama")
    with pytest.raises(GuidedError, match=r"^model: it is inside of OptimizedModule \(hand over the model itself, and"):
        Anatomy.of(torch.compile(model))
    with pytest.raises(GuidedError, match=r"^model: it is inside of DataParallel \(hand over the model itself: the"):
        Anatomy.of(torch.nn.DataParallel(model))
    with pytest.raises(GuidedError, match=r"^model: Linear is no Hugging Face causal language model"):
        Anatomy.of(torch.nn.Linear(2, 2))
