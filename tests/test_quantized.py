"""Slices on a quantized base (bitsandbytes nf4 and int8), and 8-bit optimizers."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from datasets import Dataset
from families import tokens
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from guided_ft import Anatomy, Component, GuidedCallback, Plan, Selection, Task, localize
from guided_ft.errors import GuidedError
from guided_ft.slice.packing import forbid_packing

pytest.importorskip("bitsandbytes")

KINDS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    "int8": {"load_in_8bit": True},
}
quantizations = pytest.mark.parametrize("kind", KINDS)


def make() -> LlamaForCausalLM:
    """Wider than the other tiny models: a block of 4-bit weights is 64 long."""
    config = LlamaConfig(
        vocab_size=99,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def load(folder: Path, kind: str, dtype: torch.dtype = torch.float32):
    path = folder / "base"
    if not path.exists():
        make().save_pretrained(path)
    config = BitsAndBytesConfig(**KINDS[kind])
    return AutoModelForCausalLM.from_pretrained(path, quantization_config=config, dtype=dtype, device_map="cpu")


def plan_of(model) -> Plan:
    anatomy = Anatomy.of(model)
    parts = [Component("neuron", layer, n) for layer in range(2) for n in (1, 5, 6)]
    return Plan(Selection(anatomy, [*parts, *(Component("head", 1, h) for h in range(2))]))


def train(model, folder: Path, steps: int = 4, resume: bool = False, **options):
    plan = plan_of(model)
    callback = GuidedCallback(plan)
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
    from bitsandbytes.functional import dequantize_4bit

    model = plan_of(load(tmp_path, kind)).attach(load(tmp_path, kind)).train()
    plain = make()
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            base = model.base_model.model.get_submodule(name)
            weight = (base.get_base_layer() if hasattr(base, "get_base_layer") else base).weight
            if kind == "nf4":
                module.weight.data = dequantize_4bit(weight.data, weight.quant_state).float()
            else:
                module.weight.data = weight.CB.float() * weight.SCB[:, None] / 127
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
