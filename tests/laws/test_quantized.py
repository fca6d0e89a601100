"""Slices on a quantized base (bitsandbytes nf4 and int8), and 8-bit optimizers."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from datasets import Dataset
from families import tokens
from peft import PeftModel
from trl import SFTConfig, SFTTrainer

from guided_ft import Anatomy, Component, GuidedCallback, Plan, Selection, Task, localize
from guided_ft.errors import GuidedError
from guided_ft.slice.storage import forbid_packing

pytest.importorskip("bitsandbytes")

from quantized import load as load_family
from quantized import plain_twin

quantizations = pytest.mark.parametrize("kind", ["nf4", "int8"])


def load(folder: Path, kind: str):
    return load_family("llama", kind, folder)


def plan_of(model) -> Plan:
    anatomy = Anatomy.of(model)
    parts = [Component("neuron", layer, n) for layer in range(2) for n in (1, 5, 6)]
    return Plan(Selection(anatomy, [*parts, *(Component("head", 1, h) for h in range(2))]))


def train(
    model,
    folder: Path,
    steps: int = 4,
    resume: bool = False,
    plan: Plan | None = None,
    cache: str | None = None,
    **options,
):
    plan = plan or plan_of(model)
    callback = GuidedCallback(plan, prefix_cache=cache)
    args = SFTConfig(
        str(folder),
        max_steps=steps,
        save_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        bf16=False,
        report_to=[],
        logging_steps=1,
        gradient_checkpointing=False,
        **options,
    )
    trainer = SFTTrainer(
        model,
        args=args,
        train_dataset=Dataset.from_list(tiny.sums(16)),
        processing_class=tiny.tokenizer(),
        # The Trainer takes a quantized model only with an adapter on it.
        peft_config=plan.peft_config(),
        callbacks=[callback],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, callback


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=tokens()).logits


@quantizations
def test_it_trains_reloads_and_switches_off_exactly(kind, tmp_path):
    base = load(tmp_path, kind)
    # Packed for inference its scales are rounded, and it is another model.
    forbid_packing(base)
    before = logits(base)
    trainer, callback = train(load(tmp_path, kind), tmp_path / "run")
    model = trainer.model
    tuned = logits(model)
    assert not torch.equal(tuned, before)
    assert callback.certificate.ok
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    with model.disable_adapter():
        assert torch.equal(logits(model), before)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(load(tmp_path, kind), tmp_path / "adapter")
    assert torch.equal(logits(again), tuned)
    assert again.generate(input_ids=tokens()[:1], max_new_tokens=3, do_sample=False).shape == (1, 12)


@quantizations
def test_gradients_are_those_of_the_dequantized_weights(kind, tmp_path):
    """An offset on a plain copy with the dequantized weights must pull the same way."""
    model = plan_of(load(tmp_path, kind)).attach(load(tmp_path, kind)).train()
    plain = plain_twin("llama", load(tmp_path, kind))
    reference = plan_of(plain).attach(plain).train()
    losses = []
    for m in (model, reference):
        loss = m(input_ids=tokens(), labels=tokens()).loss
        loss.backward()
        losses.append(loss.detach())
    # int8 also rounds the activations to 8 bits.
    tolerance = 1e-5 if kind == "nf4" else 5e-2
    assert losses[0] == pytest.approx(float(losses[1]), rel=tolerance)
    wanted = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = float(wanted[name].grad.abs().max())
            assert float((parameter.grad - wanted[name].grad).abs().max()) <= 3 * tolerance * scale, name


@quantizations
def test_8_bit_adam_resumes_to_the_same_bits(kind, tmp_path):
    whole, _ = train(load(tmp_path, kind), tmp_path / "a", steps=4, optim="adamw_bnb_8bit")
    assert type(whole.optimizer.optimizer).__module__.startswith("bitsandbytes")
    train(load(tmp_path, kind), tmp_path / "b", steps=2, optim="adamw_bnb_8bit", lr_scheduler_type="constant")
    whole_constant, _ = train(
        load(tmp_path, kind), tmp_path / "c", steps=4, optim="adamw_bnb_8bit", lr_scheduler_type="constant"
    )
    resumed, _ = train(
        load(tmp_path, kind),
        tmp_path / "b",
        steps=4,
        resume=True,
        optim="adamw_bnb_8bit",
        lr_scheduler_type="constant",
    )
    ours, theirs = dict(resumed.model.named_parameters()), dict(whole_constant.model.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@quantizations
def test_a_prefix_cache_changes_no_loss(kind, tmp_path):
    losses, hits = [], []
    for cache in (None, "1MB"):
        plan = Plan(Selection.parse("L1.N1 L1.N5", Anatomy.of(load(tmp_path, kind))))
        trainer, callback = train(load(tmp_path, kind), tmp_path / str(cache), steps=12, plan=plan, cache=cache)
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        hits.append(callback.engine.summary().get("hits", 0))
    assert len(losses[0]) == 12
    assert losses[0] == losses[1]
    assert hits[0] == 0 < hits[1]


@quantizations
def test_freezing_is_refused_with_a_sentence(kind, tmp_path):
    model = load(tmp_path, kind)
    plan = plan_of(model)
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    with pytest.raises(
        GuidedError, match=r"freeze: .* is quantized and cannot be trained \(use mode='slice' or 'lora'"
    ):
        Plan(plan.selection, mode="freeze").attach(model)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before


@quantizations
def test_activations_localize_and_gradients_say_that_they_cannot(kind, tmp_path):
    model = load(tmp_path, kind)
    task = Task.from_dataset(tiny.sums(4), tiny.tokenizer())
    assert localize(model, task, "attribution", retain=None).neuron.max() > 0
    with pytest.raises(GuidedError, match="is quantized"):
        localize(model, task, "gradient", retain=None)


@quantizations
def test_gradients_are_the_same_after_a_pass_in_eval_mode(kind, tmp_path):
    def gradients(warm):
        model = plan_of(load(tmp_path, kind)).attach(load(tmp_path, kind))
        if warm:
            logits(model)
        model.train()(input_ids=tokens(), labels=tokens()).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    cold, warm = gradients(False), gradients(True)
    assert all(torch.equal(warm[name], cold[name]) for name in cold)
    assert any(grad.abs().max() > 0 for grad in cold.values())
