"""Nothing that is not finite is ever saved: gradients, parameters after the last step, the optimizer's state."""

from __future__ import annotations

import re

import pytest
import torch
from refusing import refuses
from safetensors.torch import load_file
from trainers import MODES, TRAINERS, base, plain, ready, sft
from transformers import TrainerCallback

from guided_ft import GuidedCallback
from guided_ft.callback.finite import SKIPS, FiniteGuard
from guided_ft.errors import GuidedError

ROW = "base_model.model.model.layers.1.mlp.up_proj.slice_delta.default.weight"


class Spoil(TrainerCallback):
    """Multiplies the gradients of one step."""

    def __init__(self, factor: float, step: int = 0) -> None:
        self.factor, self.step, self.at = factor, step, -1

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        dict(model.named_parameters())[ROW].register_hook(lambda g: g * self.factor if self.at == self.step else g)

    def on_step_begin(self, args, state, control, **kwargs):
        self.at = state.global_step


def written(folder):
    return [path.name for path in folder.glob("checkpoint-*")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [1, 6])
def test_what_the_last_step_made_is_looked_at(mode, steps, tmp_path):
    callback = GuidedCallback(ready(base(tmp_path), mode))
    trainer = sft(base(tmp_path), tmp_path / "run", [callback], learning_rate=3e38, max_steps=steps, warmup_steps=0)
    with pytest.raises(GuidedError, match=r"step [12]: .* (is no longer|is not) finite \(\d+ parameters in all; "):
        trainer.train()
    assert written(tmp_path / "run") == []
    assert callback.certificate is None


@pytest.mark.parametrize("make_trainer", [sft, plain])
def test_fp16_on_a_cpu_keeps_the_guard_on(make_trainer, tmp_path):
    callback = GuidedCallback(ready(base(tmp_path), "slice"))
    trainer = make_trainer(base(tmp_path), tmp_path / "run", [callback, Spoil(float("inf"), 2)], fp16=True)
    with pytest.raises(GuidedError, match=r"step 3: the gradient of .*mlp\.up_proj.* is not finite"):
        trainer.train()
    assert written(tmp_path / "run") == []


def test_a_gradient_whose_norm_overflows_is_not_clipped_to_nothing(tmp_path):
    callback = GuidedCallback(ready(base(tmp_path), "slice"))
    trainer = sft(base(tmp_path), tmp_path / "run", [callback, Spoil(1e25, 1)], save_steps=1)
    with refuses(
        f"step 2: the gradient of {ROW} is not finite (1 parameters in all; check the data, or lower the learning rate)"
    ):
        trainer.train()
    assert written(tmp_path / "run") == ["checkpoint-1"]


def test_a_moment_that_overflows_is_not_saved():
    layer = torch.nn.Linear(2, 2)
    optimizer, guard = torch.optim.AdamW(layer.parameters()), FiniteGuard()
    guard.open(layer, scaled=True)
    for p in layer.parameters():
        p.grad = torch.full_like(p, 1e25)
    optimizer.step()
    guard.after_step(1, optimizer, saving=False)
    with refuses(
        "step 1: the optimizer's exp_avg_sq of weight is not finite, so it would not train any more (clip the "
        "gradients with max_grad_norm, or check the data)"
    ):
        guard.after_step(1, optimizer, saving=True)


def without_labels(rows, which):
    return [row | {"labels": [-100] * len(row["labels"])} if i in which else row for i, row in enumerate(rows)]


def test_batches_without_a_label_are_counted_and_told(tmp_path, caplog):
    trainer = plain(base(tmp_path), tmp_path / "run", [GuidedCallback(ready(base(tmp_path), "slice"))])
    trainer.train_dataset = without_labels(trainer.train_dataset, range(20))
    trainer.args.per_device_train_batch_size, trainer._train_batch_size = 1, 1
    trainer.train()
    assert "of 6 training batches had no label and trained nothing" in caplog.text
    caplog.clear()
    trainer.train_dataset = without_labels(trainer.train_dataset, range(24))
    with refuses(
        "no label in any of 6 training batches, so nothing was trained (is max_length too short, or every label -100?)"
    ):
        trainer.train()


class Scaled:
    step_was_skipped = True
    state: dict = {}  # noqa: RUF012


def test_a_scaler_that_skips_every_step_is_told():
    guard = FiniteGuard()
    guard.open(torch.nn.Linear(2, 2), scaled=True)
    for step in range(1, SKIPS):
        guard.after_step(step, Scaled(), False)
    with refuses(
        f"step {SKIPS}: the last {SKIPS} steps were skipped, as their gradients overflow in fp16 (check the data, or "
        "train in bf16)"
    ):
        guard.after_step(SKIPS, Scaled(), False)


@pytest.mark.parametrize("name", ["sft", "dpo"])
@pytest.mark.parametrize("mode", MODES)
def test_a_rate_of_a_million_saves_numbers_or_stops(name, mode, tmp_path):
    callback = GuidedCallback(ready(base(tmp_path), mode))
    trainer = TRAINERS[name](base(tmp_path), tmp_path / "run", [callback], learning_rate=1e6, save_steps=1)
    said = ""
    try:
        trainer.train()
    except GuidedError as error:
        said = str(error)
    assert bool(said) == (callback.certificate is None)
    assert not said or re.match(r"step \d+: .* (is no longer|is not) finite", said)
    saved = [*(tmp_path / "run").glob("checkpoint-*/*.safetensors")]
    assert saved
    for path in saved:
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path
        state = torch.load(path.parent / "optimizer.pt", weights_only=True)["state"]
        assert all(value.isfinite().all() for moments in state.values() for value in moments.values())


class Loud(TrainerCallback):
    """Lets a layer's output overflow from a step on, as bfloat16 does where a model's scale runs away."""

    def __init__(self, step: int) -> None:
        self.step, self.handle = step, None

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            layer = model.get_base_model().model.layers[0].mlp
            self.handle = layer.register_forward_hook(lambda module, inputs, out: out * 3e38 * 10)


def test_a_forward_pass_that_overflows_in_bfloat16_stops_the_run(tmp_path):
    callback = GuidedCallback(ready(base(tmp_path), "slice"))
    trainer = plain(base(tmp_path), tmp_path / "run", [callback, Loud(2)], bf16=True, save_steps=1)
    with pytest.raises(GuidedError, match=r"^step 3: the gradient of .* is not finite"):
        trainer.train()
    assert sorted(written(tmp_path / "run")) == ["checkpoint-1", "checkpoint-2"]
