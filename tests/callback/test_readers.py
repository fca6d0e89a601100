"""Where code that is not transformers' or TRL's may read the logits, it gets those of every position."""

from __future__ import annotations

import pytest
import torch
from families import make
from prefixes import model_of, plan_of
from trainers import TRAINERS, base, plain, ready, settings
from transformers import Trainer, TrainingArguments

from guided_ft import GuidedCallback
from guided_ft.callback.readers import other_reader
from guided_ft.errors import GuidedError


class Shape:
    """Notes how many positions have logits."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def loss(self, outputs, labels, **kwargs):
        self.seen.append(outputs.logits[..., 0].numel())
        logits = outputs.logits[:, :-1].transpose(1, 2)
        return torch.nn.functional.cross_entropy(logits, labels[:, 1:])


class OverriddenLoss(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        loss = SHAPE.loss(outputs, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


class OverriddenStep(Trainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = SHAPE.loss(model(**inputs), inputs["labels"])
        loss.backward()
        return loss.detach()


SHAPE = Shape()


def of_instance(trainer):
    trainer.compute_loss = lambda model, inputs, **kwargs: SHAPE.loss(model(**inputs), inputs["labels"])


def of_model(trainer):
    def loss(logits, labels, vocab_size, **kwargs):
        SHAPE.seen.append(logits[..., 0].numel())
        return torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:])

    trainer.model.get_base_model().loss_function = loss


def of_hook(trainer):
    head = trainer.model.get_base_model().lm_head
    head.register_forward_hook(lambda module, args, out: SHAPE.seen.append(out[..., 0].numel()))


def of_config(trainer):
    trainer.model.config.output_hidden_states = True
    of_layer = trainer.model.get_base_model().lm_head
    original = of_layer.forward
    of_layer.forward = lambda x: SHAPE.seen.append(x[..., 0].numel()) or original(x)


WAYS = {
    "overridden loss": (OverriddenLoss, None),
    "overridden step": (OverriddenStep, None),
    "of the instance": (Trainer, of_instance),
    "of the model": (Trainer, of_model),
    "a hook": (Trainer, of_hook),
    "the config": (Trainer, of_config),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_reads_logits_gets_all_of_them(way, tmp_path):
    kind, change = WAYS[way]
    rows = plain(make("llama"), tmp_path / "x", []).train_dataset
    SHAPE.seen.clear()
    args = TrainingArguments(**settings(tmp_path / "run", max_steps=2, save_strategy="no"))
    callback = GuidedCallback(ready(make("llama"), "slice"))
    trainer = kind(make("llama"), args=args, train_dataset=rows, callbacks=[callback])
    if change:
        change(trainer)
    trainer.train()
    every = 4 * len(rows[0]["input_ids"])
    assert SHAPE.seen == [every] * 2


@pytest.mark.parametrize("name", TRAINERS)
def test_the_known_trainers_need_only_what_is_labelled(name, tmp_path):
    trainer = TRAINERS[name](base(tmp_path), tmp_path / "run", [GuidedCallback(ready(make("llama"), "slice"))])
    assert other_reader(trainer, trainer.model) is None
    trainer.model.get_base_model().model.layers[-1].mlp.register_forward_hook(print)
    assert "in the last layer has a forward hook" in other_reader(trainer, trainer.model)


def test_no_trainer_at_all_is_not_trusted():
    assert "training loop" in other_reader(None, make("llama"))


def test_a_hook_below_the_lowest_trained_layer_refuses_the_cache(tmp_path):
    model = model_of("llama")
    model.model.layers[0].mlp.register_forward_hook(print)
    trainer = plain(model, tmp_path, [GuidedCallback(plan_of(model), prefix_cache="1MB")], max_steps=24)
    with pytest.raises(GuidedError, match=r"prefix_cache: layer 0\.mlp has a forward hook, which stored states"):
        trainer.train()
