"""Padded positions are read too: a first label on the left, labels on the padding, a loss that takes every logit."""

from __future__ import annotations

import pytest
import torch
from batches import batch, gradients
from prefixes import FIRST, model_of, plan_of, settings
from transformers import Trainer, TrainingArguments

from guided_ft import Anatomy, GuidedCallback
from guided_ft.engine.prefix import Prefix
from guided_ft.engine.store import PrefixStore


def everything_labelled(left: bool, on_padding: bool) -> dict[str, torch.Tensor]:
    """Texts whose first token has a label, which a padded position predicts if it stands on the left."""
    inputs = batch(rows=8, left=left)
    real = inputs["attention_mask"].bool()
    return inputs | {"labels": inputs["input_ids"].masked_fill(~real & (not on_padding), -100)}


def losses(folder, model, callbacks, inputs) -> list[float]:
    rows = [{k: v[i] for k, v in inputs.items()} for i in range(len(inputs["labels"]))]
    trainer = Trainer(
        model, args=TrainingArguments(**settings(folder, max_steps=8)), train_dataset=rows, callbacks=callbacks
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(("left", "on_padding"), [(True, False), (True, True), (False, True)])
@pytest.mark.parametrize("full_logits", [False, True])
def test_the_losses_are_the_same_whatever_the_labels_read(left, on_padding, full_logits, tmp_path):
    plan, inputs = plan_of(model_of("gpt2")), everything_labelled(left, on_padding)
    runs = {}
    for cache in (None, "1MB"):
        callback = GuidedCallback(plan, prefix_cache=cache, full_logits=full_logits, learning_rate=None)
        runs[cache] = losses(tmp_path / str(cache), model_of("gpt2"), [callback], inputs)
    assert callback.engine.summary()["hits"] > 0
    assert runs["1MB"] == runs[None]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_what_is_found_has_every_bit_also_where_there_is_no_token(family, attention, tmp_path):
    model = model_of(family, attention).train()
    inputs = everything_labelled(True, False)
    some = {k: torch.cat([v[:4], torch.roll(v[4:], 1, 0)]) for k, v in inputs.items()}
    expected = [gradients(model, each)[0] for each in (inputs, some)]
    store = PrefixStore(tmp_path, model.config.hidden_size, torch.float32, 1 << 20)
    with Prefix(model, Anatomy.of(model), FIRST, store).open() as prefix:
        found = [gradients(model, each)[0] for each in (inputs, some)]
    assert (prefix.hits, prefix.misses, prefix.difference) == (8, 8, 0.0)
    assert found == expected
