"""TRL's other trainers train what SFT and DPO do: the chosen rows, the same ones with and without the shortcuts."""

from __future__ import annotations

import families
import pytest
import tiny
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, RLOOConfig, RLOOTrainer

from guided_ft import GuidedCallback, Plan, Task, localize, select

SAMPLING = {"num_generations": 4, "max_completion_length": 8, "beta": 0.1}
"""With a reference: the model without its adapter."""


def reward(completions, **kwargs) -> list[float]:
    return [float(sum(map(ord, text)) % 7) for text in completions]


def judged() -> list[dict]:
    return [{**row, "label": i % 2 == 0} for i, row in enumerate(tiny.sums(16))]


def prompts() -> list[dict]:
    return [{"prompt": row["prompt"]} for row in tiny.sums(16)]


TRAINERS = {
    "kto": (KTOTrainer, KTOConfig, {}, judged, {}),
    "grpo": (GRPOTrainer, GRPOConfig, SAMPLING, prompts, {"reward_funcs": reward}),
    "rloo": (RLOOTrainer, RLOOConfig, SAMPLING, prompts, {"reward_funcs": reward}),
}


def plan() -> Plan:
    model = families.make("llama")
    task = Task.from_dataset(tiny.sums(16), tiny.tokenizer(), batch_size=4)
    return Plan(select(localize(model, task), budget="5%", first_layer=1, kinds=("head", "neuron")))


def trained(name, folder, *callbacks) -> dict[str, torch.Tensor]:
    kind, config, settings, rows, more = TRAINERS[name]
    trainer = kind(
        families.make("llama"),
        args=config(
            output_dir=str(folder),
            max_steps=8,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            **settings,
        ),
        train_dataset=Dataset.from_list(rows()),
        processing_class=tiny.tokenizer(),
        peft_config=plan().peft_config(),
        callbacks=list(callbacks),
        **more,
    )
    trainer.train()
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", TRAINERS)
def test_the_shortcuts_change_nothing(name, tmp_path):
    plain = trained(name, tmp_path / "plain")
    assert max(float(tensor.abs().max()) for tensor in plain.values()) > 0.01
    callback = GuidedCallback(plan(), prefix_cache="50MB")
    short = trained(name, tmp_path / "short", callback)
    assert str(callback.certificate) == "21 of 21 frozen tensors bit-identical"
    assert all(torch.equal(plain[tensor], short[tensor]) for tensor in plain)
    # What is sampled anew is never read twice.
    assert name != "kto" or callback.engine.summary()["hits"] > 0
