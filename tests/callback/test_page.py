"""``callback.report(folder)`` writes the page of a script's own trainer, from what the callback saw."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
from huggingface_hub.utils import filter_repo_objects
from trainers import STEPS, TRAINERS, base, from_task, ready, sft
from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from guided_ft import GuidedCallback, GuidedError, ScoreMap, Selection
from guided_ft.callback.page import Seen, _measured
from guided_ft.report import story, write_report
from guided_ft.report.facts import amount, results
from guided_ft.report.record import read_run


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_page_of_what_was_scored_chosen_and_trained(trainer, tmp_path):
    callback = from_task("slice", trainer)
    TRAINERS[trainer](base(tmp_path), tmp_path / "run", [callback]).train()
    folder = tmp_path / "deep" / "page"
    assert callback.report(folder) == folder / "report.html"
    page = (folder / "report.html").read_text()
    assert page.count("fig-heads") > 1
    assert str(base(tmp_path).name_or_path) in page
    run = read_run(folder)
    assert run.model == str(tmp_path / "base-llama-float32")
    assert (run.name, run.mode, run.method, run.budget) == ("page", "slice", "attribution", "20%")
    assert (run.trainable, run.task.train) == (callback.plan.num_parameters, 24)
    assert [step for step, _ in run.loss] == list(range(1, STEPS + 1))
    assert run.frozen.identical == callback.certificate.identical == run.frozen.total
    assert set(run.seconds) == {"localize", "train"}
    assert ScoreMap.load(folder / "scores.safetensors").compare(callback.scores, "head")["pearson"] == pytest.approx(1)
    assert Selection.load(folder / "selection.json") == callback.plan.selection
    told = story(run)
    assert "frozen tensors are bit-identical" in told
    assert "no metric was measured, so this run shows nothing about the task" in told
    write_report(folder)


def test_what_was_evaluated_is_told_and_a_plan_of_ones_own_has_no_map(tmp_path):
    model = base(tmp_path)
    callback = GuidedCallback(ready(model, "lora"))
    trainer = sft(model, tmp_path / "run", [callback])
    trainer.train()
    trainer.evaluate(trainer.train_dataset)
    page = callback.report(tmp_path / "page")
    run = read_run(tmp_path / "page")
    last = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry][-1]
    assert run.after["eval_loss"] == last
    assert not [name for name in run.after if name.endswith("runtime") or "per_second" in name]
    assert not run.mapped
    assert "fig-heads" not in page.read_text()
    assert not (tmp_path / "page" / "scores.safetensors").exists()


def test_a_resumed_run_shows_the_map_of_the_first(tmp_path):
    first = from_task("slice")
    sft(base(tmp_path), tmp_path / "run", [first]).train()
    again = from_task("slice")
    sft(base(tmp_path), tmp_path / "run", [again]).train(resume_from_checkpoint=True)
    assert again.scores is None
    again.report(tmp_path / "page")
    kept = ScoreMap.load(tmp_path / "page" / "scores.safetensors")
    assert kept.compare(first.scores, "neuron")["pearson"] == pytest.approx(1)


def test_the_page_of_directions_shows_what_they_say_about_units(tmp_path):
    callback = from_task("subspace")
    sft(base(tmp_path), tmp_path / "run", [callback]).train()
    page = callback.report(tmp_path / "page")
    run = read_run(tmp_path / "page")
    assert (run.mapped, run.retain, run.method) == (True, "self", "directions")
    assert set(run.seconds) == {"localize", "train"}
    assert "fig-heads" in page.read_text()
    kept = ScoreMap.load(tmp_path / "page" / "scores.safetensors")
    assert kept.compare(callback.scores.scores, "neuron")["pearson"] == pytest.approx(1)


def test_what_opens_an_account_is_not_passed_on(tmp_path, monkeypatch):
    words = ["train.py", "--hub_token", "abc", "--wandb-api-key=def", "hf_abcdefghijkl", "--max_steps", "3"]
    words += [
        "train.hub_token=abc",
        "a=hf_abcdefghijkl",
        "https://me:" + "hf_abcdefghijkl@x",
        "--pad_token",
        "p",
        "text_key=q",
    ]
    monkeypatch.setattr(sys, "argv", words)
    callback = from_task("slice")
    sft(base(tmp_path), tmp_path / "run", [callback]).train()
    callback.report(tmp_path / "page")
    command = "python train.py --hub_token '***' '--wandb-api-key=***' '***' --max_steps 3 "
    command += "'train.hub_token=***' 'a=***' '***' --pad_token p text_key=q"
    assert read_run(tmp_path / "page").command == command


def test_what_a_trainer_measures_between_0_and_1_is_no_percentage(tmp_path):
    model = base(tmp_path)
    callback = GuidedCallback(ready(model, "slice"))
    trainer = sft(model, tmp_path / "run", [callback])
    trainer.train()
    trainer.evaluate(trainer.train_dataset)
    callback.report(tmp_path / "page")
    run = read_run(tmp_path / "page")
    found = run.after["eval_mean_token_accuracy"]
    row = next(cells for name, cells in results(run).rows if name == "eval mean token accuracy")
    assert row[1] == amount(found)


def evaluated(entries: list[dict], args: dict, best: int | None = None) -> dict:
    state = TrainerState(log_history=entries)
    state.best_global_step = best
    return _measured(entries, Seen(SimpleNamespace(**{"load_best_model_at_end": False, **args}), state, "m", 1))


def test_the_page_tells_every_set_and_the_weights_that_were_kept():
    def entry(prefix: str, step: int, loss: float) -> dict:
        return {f"{prefix}_loss": loss, f"{prefix}_runtime": 1.0, "step": step}

    first = [entry("eval_task", 1, 5.0), entry("eval_general", 1, 3.0)]
    second = [entry("eval_task", 2, 6.0), entry("eval_general", 2, 4.0)]
    end = {"train_runtime": 1.0, "train_loss": 1.0, "step": 2}
    best = {"load_best_model_at_end": True}
    assert evaluated([*first, *second, end], {}) == {"eval_task_loss": 6.0, "eval_general_loss": 4.0}
    kept = [*first, *second, end]
    assert evaluated(kept, best, best=1) == {"eval_task_loss": 5.0, "eval_general_loss": 3.0}
    after = [*kept, entry("test", 2, 7.0)]
    assert evaluated(after, best, best=1) == {"test_loss": 7.0}
    assert evaluated([end], {}) == {}


def test_nothing_that_is_kept_for_later_is_pushed(tmp_path):
    """Trainers push their folder but for these patterns; a cache holds hidden states of private texts."""
    callback = from_task("slice", first_layer=1, prefix_cache="1MB")
    sft(base(tmp_path), tmp_path / "run", [callback], num_train_epochs=2, max_steps=-1).train()
    files = [str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert any(name.startswith("_guided/prefix/") for name in files)
    pushed = filter_repo_objects(files, ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*"])
    assert not [name for name in pushed if name.endswith((".safetensors", ".json", ".lock"))]


def test_refusals(tmp_path):
    callback = from_task("slice")
    with pytest.raises(GuidedError, match="added too late"):
        callback.report(tmp_path / "page")
    sft(base(tmp_path), tmp_path / "run", [callback])
    with pytest.raises(GuidedError, match=r"report: nothing was trained yet \(call trainer.train\(\) first\)"):
        callback.report(tmp_path / "page")
    assert not (tmp_path / "page").exists()
    sft(base(tmp_path), tmp_path / "run", [callback]).train()
    (tmp_path / "runs").mkdir()
    for name in ("run.json", "recipe.yaml"):
        (tmp_path / "runs" / name).write_text(json.dumps({"kind": "run"}))
    with pytest.raises(GuidedError, match=r"is the folder of a recipe's run \(name another folder\)"):
        callback.report(tmp_path / "runs")
