"""The guards stop a run that trains something else, and the certificate names what moved."""

from __future__ import annotations

import json

import pytest
import torch
from families import make
from trainers import TRAINERS, base, ready, sft
from transformers import TrainerCallback

from guided_ft import GuidedCallback, Plan, Selection
from guided_ft.anatomy import Anatomy
from guided_ft.callback.call import trainer_here
from guided_ft.callback.certify import Certificate
from guided_ft.errors import GuidedError


class Meddler(TrainerCallback):
    """Does what users' scripts do by accident."""

    def __init__(self, event: str, act) -> None:
        setattr(self, event, lambda args, state, control, **kwargs: act(kwargs["model"]))


def test_a_parameter_beside_the_plan_stops_the_run(tmp_path):
    plan = ready(make("llama"), "slice")

    def act(model):
        next(p for n, p in model.named_parameters() if n.endswith("norm.weight")).requires_grad_(True)

    trainer = sft(base(tmp_path), tmp_path / "run", [GuidedCallback(plan), Meddler("on_init_end", act)])
    with pytest.raises(GuidedError, match=r"norm\.weight is trainable but not in the plan"):
        trainer.train()


def test_a_launch_that_would_train_two_models_is_refused(tmp_path, monkeypatch):
    """What torchrun tells its processes, where none has met the others: without a GPU and without use_cpu."""

    def launched(model) -> None:
        monkeypatch.setenv("LOCAL_RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")

    model = base(tmp_path)
    with pytest.raises(GuidedError, match="torchrun: it started 2 processes, which do not work together"):
        sft(model, tmp_path / "run", [Meddler("on_init_end", launched), GuidedCallback(ready(model, "subspace"))])
    assert not hasattr(model, "peft_config")


def test_an_optimizer_with_other_parameters_stops_the_run(tmp_path):
    plan = ready(make("llama"), "slice")
    trainer = sft(base(tmp_path), tmp_path / "run", [GuidedCallback(plan)])
    held = [p for p in trainer.model.parameters() if p.requires_grad]
    trainer.optimizer = torch.optim.AdamW(held[1:], lr=1e-3)
    with pytest.raises(GuidedError, match="optimizer: it does not hold exactly the plan's parameters"):
        trainer.train()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_that_is_not_finite_stops_the_run_by_name(tmp_path, accumulate):
    plan = ready(make("llama"), "slice")
    culprit = "base_model.model.model.layers.1.mlp.up_proj.slice_delta.default.weight"
    spoil = {"on": False}

    def act(model):
        parameter = dict(model.named_parameters())[culprit]
        parameter.register_hook(lambda g: g * float("nan") if spoil["on"] else g)

    callback = GuidedCallback(plan)
    trainer = sft(
        base(tmp_path),
        tmp_path / "run",
        [callback, Meddler("on_train_begin", act), Spoil(spoil)],
        gradient_accumulation_steps=accumulate,
    )
    with pytest.raises(GuidedError, match=f"step 3: the gradient of {culprit} is not finite \\(1 parameters"):
        trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert sum(len(p._post_accumulate_grad_hooks or ()) for p in trainer.model.parameters()) == 0


class Spoil(TrainerCallback):
    def __init__(self, switch: dict) -> None:
        self.switch = switch

    def on_step_begin(self, args, state, control, **kwargs):
        self.switch["on"] = state.global_step == 2


def test_a_frozen_tensor_that_moves_is_named(tmp_path):
    plan = ready(make("llama"), "slice")

    def act(model):
        with torch.no_grad():
            model.get_base_model().model.norm.weight[3] += 1e-6

    trainer = sft(base(tmp_path), tmp_path / "run", [GuidedCallback(plan), Meddler("on_epoch_end", act)])
    with pytest.raises(GuidedError, match=r"certificate: model\.norm\.weight moved although it is frozen \(1 tensors"):
        trainer.train()
    record = json.loads((tmp_path / "run" / "_guided" / "certificate.json").read_text())
    assert record["moved"] == ["model.norm.weight"]


def test_added_too_late_is_said(tmp_path):
    trainer = sft(base(tmp_path), tmp_path / "run", [])
    trainer.add_callback(GuidedCallback(ready(make("llama"), "slice")))
    with pytest.raises(GuidedError, match="added too late"):
        trainer.train()


def test_neither_plan_nor_task_is_said():
    with pytest.raises(GuidedError, match="either a plan or a task"):
        GuidedCallback()


def test_no_tensor_to_compare_is_no_certificate():
    assert not Certificate.compare({}, {}).ok
    assert not Certificate.compare({"a": "1"}, {}).ok
    assert Certificate.compare({"a": "1"}, {"a": "1", "b": "2"}).ok


def test_a_model_with_another_adapter_is_refused(tmp_path):
    model = base(tmp_path)
    other = Plan(Selection.parse("L0.H0", Anatomy.of(model)), "lora")
    with pytest.raises(GuidedError, match="carries another adapter"):
        sft(other.attach(model), tmp_path / "run", [GuidedCallback(ready(make("llama"), "slice"))])


@pytest.mark.parametrize("name", TRAINERS)
def test_no_row_to_train_on_is_said(name, tmp_path):
    """As where TRL has left out all of them."""
    model = base(tmp_path)

    def empty(model) -> None:
        trainer = trainer_here()
        trainer.train_dataset = [] if name == "trainer" else trainer.train_dataset.select([])

    callbacks = [Meddler("on_init_end", empty), GuidedCallback(ready(make("llama"), "slice"))]
    with pytest.raises(GuidedError, match=r"train_dataset: there is no row to train on \(TRL leaves out rows of which"):
        TRAINERS[name](model, tmp_path / "run", callbacks)
    assert not hasattr(model, "peft_config")
