"""Weights that accelerate keeps on disk are frozen and certified like any; those that train must be in memory."""

from __future__ import annotations

import pytest
import torch
from accelerate import dispatch_model
from families import make
from refusing import refuses
from trainers import plain

from guided_ft import GuidedCallback, Plan, Selection
from guided_ft.anatomy import Anatomy
from guided_ft.errors import GuidedError
from guided_ft.slice.fingerprint import fingerprint


def offloaded(folder, *layers: int):
    model = make("llama")
    places = {name: "cpu" for name, _ in model.named_children() if name != "model"}
    places |= {f"model.{name}": "cpu" for name, _ in model.model.named_children() if name != "layers"}
    places |= {f"model.layers.{i}": "disk" if i in layers else "cpu" for i in range(2)}
    return dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


def test_the_fingerprint_is_that_of_the_weights_on_disk(tmp_path):
    model = offloaded(tmp_path, 0)
    assert any(p.is_meta for p in model.parameters())
    assert fingerprint(model) == fingerprint(make("llama"))


@pytest.mark.parametrize("mode", ["slice", "lora", "freeze"])
def test_frozen_layers_may_be_on_disk(mode, tmp_path):
    model = offloaded(tmp_path / "weights", 0)
    callback = GuidedCallback(Plan(Selection.parse("L1.N3 L1.N40", Anatomy.of(make("llama"))), mode))
    trainer = plain(model, tmp_path / "run", [callback], max_steps=2, save_strategy="no")
    trainer.train()
    assert callback.certificate.ok


@pytest.mark.parametrize("mode", ["slice", "freeze"])
def test_layers_that_train_may_not(mode, tmp_path):
    model = offloaded(tmp_path, 1)
    plan = Plan(Selection.parse("L1.N3 L1.N40", Anatomy.of(make("llama"))), mode)
    with pytest.raises(GuidedError, match=r"model\.layers\.1\.mlp\..* is not in memory \(load the layers that train"):
        plan.attach(model)
    assert not hasattr(model, "peft_config")


def test_weights_that_are_nowhere_are_named():
    model = make("llama").to("meta")
    with refuses(
        "model.embed_tokens.weight is not in memory (load the model onto a device, without device_map='disk' or 'meta')"
    ):
        fingerprint(model)


def test_a_tensor_that_begins_where_another_does_is_another():
    model = make("llama")
    both = torch.zeros(4, 4)
    model.register_buffer("part", both[:2])
    model.register_buffer("whole", both)
    before = fingerprint(model)
    assert before["part"] != before["whole"]
    both[3] = 1
    after = fingerprint(model)
    assert (before["part"], before["whole"] != after["whole"]) == (after["part"], True)


def test_the_same_bytes_in_another_shape_or_dtype_are_another_tensor():
    def of(tensor: torch.Tensor) -> str:
        module = torch.nn.Module()
        module.register_buffer("x", tensor)
        return fingerprint(module)["x"]

    zeros = torch.zeros(2, 8)
    assert len({of(zeros), of(zeros.view(4, 4)), of(zeros.view(torch.int32))}) == 3
