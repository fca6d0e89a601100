"""Quantized bases from the recipe on: loaded, localized, trained, certified and evaluated by one command."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path

import pytest
import tiny
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, TrainerControl, TrainerState, TrainingArguments

from guided_ft import Anatomy, GuidedCallback, Plan, Recipe, Selection, Task, localize
from guided_ft.cli import main
from guided_ft.errors import GuidedError
from guided_ft.export import merged
from guided_ft.models import load_model
from guided_ft.pipeline.fingerprint import stage_keys
from guided_ft.pipeline.training import _resumable
from guided_ft.plan.attaching import trainable_names
from guided_ft.slice.storage import quantized_layers, storage_of

pytest.importorskip("bitsandbytes")

from quantized import is_quantized, load, logits, make, numbers, stored

quantizations = pytest.mark.parametrize("kind", ["nf4", "int8"])


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A folder with a plain tiny model and its tokenizer."""
    make("llama").save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def write(folder: Path, base: str, **top: object) -> Path:
    """A recipe of a few seconds."""
    rows = folder / "sums.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny.sums(40)))
    settings = {
        "model": base,
        "output": str(folder / "run"),
        "control": "none",
        "data": {"source": "file", "path": str(rows), "train": 24, "test": 8},
        "localize": {"examples": 8},
        "select": {"budget": "5%", "first_layer": 1},
        "train": {
            "mode": "slice",
            "steps": 14,
            "batch_size": 4,
            "save_steps": 7,
            "learning_rate": 1e-2,
            "max_length": 32,
        },
        "evaluate": {"retention_examples": 4, "retention_tokens": 12},
    }
    path = folder / "my.yaml"
    path.write_text(json.dumps(settings | top))
    return path


def call(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = call(*arguments)
    _, err = capsys.readouterr()
    assert (code, err.count("\n")) == (2, 1), err
    return err.rstrip("\n")


# -- the recipe ----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@quantizations
def test_a_recipe_trains_on_a_quantized_base(kind, base, tmp_path, capsys, caplog):
    path = write(tmp_path, base, quantization=kind)
    assert call("run", str(path)) == 0
    assert "MatMul8bitLt" not in caplog.text
    folder = tmp_path / "run"
    run = json.loads((folder / "run.json").read_text())
    assert all(check["ok"] for check in run["checks"])
    assert run["reload"]["max_difference"] == 0
    assert run["total"] == sum(p.numel() for p in make("llama").parameters())
    assert 0.03 * run["total"] < run["trainable"] <= 0.05 * run["total"]
    assert run["loss"][-1][1] < run["loss"][0][1]
    assert run["prefix"]["cache"]
    assert run["prefix"]["hits"] > 0
    assert run["retention"]["before"]["kl"] == 0 < run["retention"]["after"]["kl"]
    # Each of the 14 projections has its codes and its scales, and all of them are vouched for.
    layers = quantized_layers(load_model(base, quantization=kind)).values()
    scales = [len(storage_of(layer).scales(layer)) for layer in layers]
    assert len(scales) == 14
    assert min(scales) > 0
    assert run["frozen"]["identical"] == run["frozen"]["total"] == len(make("llama").state_dict()) + sum(scales)
    assert Recipe.load(str(folder / "recipe.yaml")).quantization == kind
    # What it trained is an adapter of the quantized model, which leaves as a plain checkpoint.
    model = PeftModel.from_pretrained(load_model(base, quantization=kind), folder / "adapter")
    expected = logits(model)
    merged(model, tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits(again) - expected).abs().max() <= 1e-4
    assert (logits(load_model(base)) - expected).abs().max() > 1e-2
    # The same command with another base does everything anew, with the same one nothing.
    capsys.readouterr()
    assert call("localize", str(path)) == 0
    assert "unchanged" in capsys.readouterr().out
    assert call("localize", str(path), "quantization=none") == 0
    assert "unchanged" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "trainer"), [("slice", "dpo"), ("lora", "sft"), ("lora", "dpo")])
def test_other_modes_and_trainers_train_on_it_too(mode, trainer, base, tmp_path):
    rows = tmp_path / "pairs.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in (tiny.pairs(24) if trainer == "dpo" else tiny.sums(24))))
    settings = {"mode": mode, "trainer": trainer, "steps": 4, "batch_size": 4, "save_steps": 2, "learning_rate": 1e-2}
    data = {"source": "file", "path": str(rows), "train": 16, "test": 4}
    path = write(tmp_path, base, quantization="nf4", data=data, train=settings)
    assert call("run", str(path)) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert all(check["ok"] for check in run["checks"])
    assert run["loss"][-1][1] != run["loss"][0][1]
    if trainer == "dpo":
        assert run["loss"][0][1] == pytest.approx(math.log(2), abs=1e-3)


@quantizations
def test_a_wrong_quantization_is_one_line(kind, base, tmp_path, capsys, monkeypatch):
    wrong = str(write(tmp_path, base, quantization="4bit"))
    said = "quantization: unknown value '4bit' (one of: int8, nf4, none)"
    assert refusal(capsys, "check", wrong) == f"my.yaml: {said}"
    freeze = write(tmp_path, base, quantization=kind, train={"mode": "freeze"})
    said = "quantization: mode freeze trains the weights themselves (write none, or mode: slice)"
    assert refusal(capsys, "check", str(freeze)) == f"my.yaml: {said}"
    right = str(write(tmp_path, base, quantization=kind))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    missing = f"quantization: {kind} needs bitsandbytes (run: pip install 'guided-ft[quantized]')"
    assert refusal(capsys, "localize", right) == missing
    project = Path(__file__).parents[2].joinpath("pyproject.toml").read_text()
    assert re.search(r'^quantized = \["bitsandbytes>=[\d.]+"\]$', project, re.M), "the extra that the line names"


def test_a_checkpoint_on_another_base_is_not_resumed_from(base, tmp_path):
    recipes = [Recipe.load(str(write(tmp_path, base, quantization=kind))) for kind in ("nf4", "int8")]
    keys = [stage_keys(each)["train"] for each in recipes]
    plan = Plan(Selection.parse("L1.N3", Anatomy.of(make("llama"))))
    folder = tmp_path / "train"
    _resumable(keys[0], plan, folder)
    (folder / "mark").touch()
    _resumable(keys[0], plan, folder)
    assert (folder / "mark").exists()
    _resumable(keys[1], plan, folder)
    assert not (folder / "mark").exists()


# -- loading -------------------------------------------------------------------------------------------------------------
@quantizations
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_quantized_as_it_is_loaded(kind, dtype, base):
    model = load_model(base, dtype=dtype, quantization=kind)
    assert not model.training
    names = [name for name, layer in model.named_modules() if is_quantized(layer)]
    assert len(names) == 2 * 7
    assert {p.dtype for p in model.parameters() if p.is_floating_point()} == {getattr(torch, dtype)}
    if kind == "nf4":
        layer = model.get_submodule(names[0])
        assert (layer.weight.quant_type, layer.compute_dtype) == ("nf4", getattr(torch, dtype))
    twin = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    # At most half the widest gap between neighbouring codes, of the largest weight in a block or row; and rounding.
    gap = {"nf4": (1 - 0.6961928) / 2, "int8": 0.5 / 127}[kind] + (2**-8 if dtype == "bfloat16" else 2**-11)
    for name in names:
        wanted = twin.get_submodule(name).weight.detach().float()
        error = (numbers(model.get_submodule(name)).float() - wanted).abs()
        if kind == "nf4":
            wanted, error = wanted.reshape(-1, 64), error.reshape(-1, 64)
        assert error.max() > 0
        assert (error <= gap * wanted.abs().amax(1, keepdim=True)).all()


@quantizations
def test_a_checkpoint_that_is_saved_quantized_loads_as_it_is(kind, base, tmp_path):
    model = load_model(base, quantization=kind)
    model.save_pretrained(tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"))
    assert {k: v.tolist() for k, v in stored(again).items()} == {k: v.tolist() for k, v in stored(model).items()}
    other = {"nf4": "int8", "int8": "nf4"}[kind]
    with pytest.raises(GuidedError, match=r"is saved quantized \(write none: it loads as it was saved\)$"):
        load_model(str(tmp_path / "saved"), quantization=other)
    with pytest.raises(GuidedError, match=r"^quantization: unknown value 'nf5' \(did you mean 'nf4'\?\)$"):
        load_model(base, quantization="nf5")


# -- packing -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every processor one on which bitsandbytes would pack 4-bit weights in eval mode."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)


def willing(model: torch.nn.Module) -> set[bool]:
    return {m.support_avx512bf16_for_cpu for m in model.modules() if hasattr(m, "support_avx512bf16_for_cpu")}


def rows(count: int = 4, first: int = 0) -> Task:
    return Task.from_dataset(tiny.sums(first + count)[first:], tiny.tokenizer())


def test_a_loaded_model_is_never_packed(packs, base, tmp_path):
    model = load_model(base, quantization="nf4")
    assert willing(model) == {False}
    model.save_pretrained(tmp_path / "saved")
    assert willing(AutoModelForCausalLM.from_pretrained(tmp_path / "saved", device_map="cpu")) == {True}
    assert willing(load_model(str(tmp_path / "saved"))) == {False}


@quantizations
@pytest.mark.parametrize("retain", ["self", "task"])
def test_a_two_sided_map_after_a_pass_in_eval_mode(kind, retain, base):
    """The pass may be an evaluation of before, or the sampling of the retain text."""

    def scores(warm: bool) -> torch.Tensor:
        model = load_model(base, quantization=kind)
        if warm:
            model.eval()(input_ids=torch.arange(3, 9)[None])
            with torch.no_grad():
                model.eval()(input_ids=torch.arange(3, 9)[None])
        kept = rows(4, 8) if retain == "task" else retain
        found = localize(model, rows(), "attribution", retain=kept)
        assert (found.head > 0).any(axis=1).all()
        assert (found.neuron > 0).any(axis=1).all()
        return torch.tensor(found.neuron)

    assert torch.equal(scores(True), scores(False))


@pytest.mark.parametrize("retain", ["self", None])
def test_localizing_keeps_weights_from_being_packed(packs, retain, tmp_path):
    model = load("llama", "nf4", tmp_path)
    assert willing(model) == {True}
    found = localize(model, rows(), "attribution", retain=retain)
    assert (found.neuron > 0).any(axis=1).all()
    assert willing(model) == {False}


def arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(str(folder), use_cpu=True, report_to=[])


@pytest.mark.parametrize("mode", ["slice", "lora"])
@pytest.mark.parametrize("given", ["plan", "task"])
def test_a_callback_keeps_weights_from_being_packed(packs, given, mode, tmp_path):
    model = load("llama", "nf4", tmp_path)
    assert willing(model) == {True}
    plan = Plan(Selection.parse("L1.H0 L1.H1 L1.N3", Anatomy.of(model)), mode, rank=2)
    callback = (
        GuidedCallback(plan)
        if given == "plan"
        else GuidedCallback(task=rows(), mode=mode, budget="20%", kinds=("head", "neuron"))
    )
    if given == "plan" and mode == "lora":
        # As a trainer does it with peft_config: nothing of ours has seen the model yet.
        model = plan.attach(model)
        assert willing(model) == {True}
    callback.on_init_end(arguments(tmp_path / "run"), TrainerState(), TrainerControl(), model=model)
    assert willing(model) == {False}
    assert trainable_names(model) == callback.plan.expected_trainable


@pytest.mark.parametrize("mode", ["slice", "lora"])
def test_a_callback_refuses_a_packed_model_and_leaves_it_alone(mode, tmp_path):
    model = load("llama", "nf4", tmp_path)
    plan = Plan(Selection.parse("L1.H0 L1.H1 L1.N3", Anatomy.of(model)), mode, rank=2)
    model.model.layers[0].mlp.up_proj.weight.quant_state.packing_format_for_cpu = True
    modules = [type(module) for module in model.modules()]
    with pytest.raises(GuidedError, match=r"^model\.layers\.0\.mlp\.up_proj: its 4-bit weight was packed"):
        GuidedCallback(plan).on_init_end(arguments(tmp_path), TrainerState(), TrainerControl(), model=model)
    assert [type(module) for module in model.modules()] == modules
