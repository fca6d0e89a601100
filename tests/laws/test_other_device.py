"""Where no GPU is at hand: on a device that is not the CPU every tensor is made where it belongs, and no step waits.

Fake tensors have a device and a shape and no numbers. Whoever asks one for its numbers gets an error: that would be a
wait for the device. ``lazy`` stands for ``cuda``, whose name a torch without CUDA refuses even then.
"""

from __future__ import annotations

import numpy as np
import peft
import pytest
import tiny
import torch
from families import FAMILIES, MOE, make
from safetensors.torch import load_file
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from trainers import MODES, ready
from transformers import AutoConfig, AutoModelForCausalLM, modeling_utils

from guided_ft import Anatomy, ScoreMap, Task, localize
from guided_ft.scorers.directions.statistics import mean_gradients, second_moments

ELSEWHERE = "lazy:0"


def moved(module: nn.Module, *args, **kwargs) -> nn.Module:
    """``Module.to`` swaps the tensors of modules, which fake ones do not allow."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                to = parameter.detach().to(*args, **kwargs)
                if (to.device, to.dtype) != (parameter.device, parameter.dtype):
                    part._parameters[name] = nn.Parameter(to, requires_grad=parameter.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = buffer.to(*args, **kwargs)
    return module


def places(tensors) -> set[str]:
    return {str(tensor.device) for tensor in tensors}


def built(family: str, dtype: torch.dtype) -> nn.Module:
    with torch.device(ELSEWHERE):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(family, **(FAMILIES | MOE)[family]), dtype=dtype, attn_implementation="eager"
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_a_plan_is_attached_trained_and_merged_there(family, mode, dtype, monkeypatch):
    plan = ready(make(family), mode)
    monkeypatch.setattr(nn.Module, "to", moved)
    with FakeTensorMode():
        model = plan.attach(built(family, dtype)).train()
        assert places([*model.parameters(), *model.buffers()]) == {ELSEWHERE}
        trained = [p for p in model.parameters() if p.requires_grad]
        if mode == "slice":
            assert {p.dtype for p in trained} == {torch.float32}
        optimizer = torch.optim.AdamW(trained)
        ids = torch.ones(2, 9, dtype=torch.long, device=ELSEWHERE)
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
        out.loss.backward()
        assert places(p.grad for p in trained) == {ELSEWHERE}
        optimizer.step()
        states = [v for state in optimizer.state.values() for v in state.values() if v.ndim]
        assert places(states) == {ELSEWHERE}
        if mode != "freeze":
            model.merge_adapter()
            model(input_ids=ids)
            model.unmerge_adapter()
            with model.disable_adapter():
                model(input_ids=ids)
            assert places(model.parameters()) == {ELSEWHERE}


@pytest.mark.parametrize("mode", MODES)
def test_what_is_written_there_has_the_names_and_shapes_of_a_file_of_the_cpu(mode, monkeypatch, tmp_path):
    plan, handed = ready(make("llama"), mode), {}
    plan.attach(make("llama")).save_pretrained(tmp_path / "real")
    [file] = (tmp_path / "real").glob("*.safetensors")
    real = {name: (tuple(value.shape), value.dtype) for name, value in load_file(file).items()}
    monkeypatch.setattr(nn.Module, "to", moved)
    for library in (peft.peft_model, modeling_utils):
        monkeypatch.setattr(library, "safe_save_file", lambda tensors, *args, **kwargs: handed.update(tensors))
    # Weights are tied where they share memory, and fake ones have none.
    monkeypatch.setattr(modeling_utils, "id_tensor_storage", lambda tensor: tensor.untyped_storage()._cdata)
    with FakeTensorMode():
        plan.attach(built("llama", torch.float32)).save_pretrained(tmp_path / "fake")
    assert {name: (tuple(value.shape), value.dtype) for name, value in handed.items()} == real
    assert places(handed.values()) == {ELSEWHERE}


def counted() -> FakeTensorMode:
    """Where it may be waited for how many positions a mask picks, as localizing does."""
    return FakeTensorMode(shape_env=ShapeEnv(allow_dynamic_output_shape_ops=True))


@pytest.mark.parametrize("method", ["attribution", "fisher", "gradient", "integrated_gradients"])
def test_localizing_stays_there_until_the_scores_are_whole(method, monkeypatch, tmp_path):
    task, handed = Task.from_dataset(tiny.sums(4), tiny.tokenizer(), batch_size=2), []

    def numbers(tensor: torch.Tensor) -> np.ndarray:
        handed.append(tensor)
        return np.ones(tuple(map(int, tensor.shape)), np.float32)

    monkeypatch.setattr(torch.Tensor, "numpy", numbers)
    with counted():
        model = built("llama", torch.float32)
        scores = localize(model, task, method, None, ("head",), progress=False)
    assert scores.sizes == {"head": 8}
    assert handed
    assert places(model.parameters()) == {ELSEWHERE}
    assert all(p.grad is None for p in model.parameters())
    scores.save(tmp_path / "scores.safetensors")
    assert ScoreMap.load(tmp_path / "scores.safetensors").sizes == scores.sizes


def test_what_directions_are_computed_from_is_there():
    task = Task.from_dataset(tiny.sums(4), tiny.tokenizer(), batch_size=2)
    with counted():
        model = built("llama", torch.float32)
        anatomy = Anatomy.of(model)
        names = [anatomy.module(layer, name) for layer in (0, 1) for name in anatomy.names_in(layer)]
        gradients = mean_gradients(model, anatomy, task, names)
        moments = second_moments(model, anatomy, task, names)
    assert set(gradients) == set(moments) == set(names)
    assert places([*gradients.values(), *moments.values()]) == {ELSEWHERE}


def test_a_wait_for_the_device_would_be_seen():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.ones(2, device=ELSEWHERE).tolist()


def test_a_tensor_on_the_wrong_device_would_be_seen(monkeypatch):
    from guided_ft.slice import delta

    made = torch.zeros
    monkeypatch.setattr(nn.Module, "to", lambda module, *args, **kwargs: module)
    monkeypatch.setattr(delta.torch, "zeros", lambda size, dtype, device: made(size, dtype=dtype))
    plan = ready(make("llama"), "slice")
    with FakeTensorMode():
        model = plan.attach(built("llama", torch.float32))
        assert "cpu" in places(model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", MODES)
def test_autocast_on_the_cpu_trains_the_plan(mode, dtype):
    model = ready(make("llama"), mode).attach(make("llama")).train()
    ids = torch.arange(3, 21).view(2, 9)
    with torch.autocast("cpu", dtype):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained.values())
    assert {p.dtype for p in trained.values()} == {torch.float32}
    exact = model(input_ids=ids, labels=ids).loss
    assert float(loss) == pytest.approx(float(exact), rel=0.02)
