"""The whole run on a tiny model: what it writes, what it skips, how it goes on."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from tiny_run import adapter, again, recipe

from guided_ft import GuidedError, Plan, Recipe, ScoreMap, Selection, run
from guided_ft.pipeline import pipeline, stages
from guided_ft.pipeline.training import probe_logits
from guided_ft.system.arrays import read_arrays

QUICK = {"evaluate": {"retention": "none"}, "control": "none"}

KEYS = {
    "kind", "version", "name", "command", "model", "dtype", "quantization", "task", "method", "retain", "mode", "trainer",
    "budget", "trainable", "total", "selected", "before", "after", "retention", "loss", "frozen", "reload", "control",
    "checks", "use", "seconds", "prefix", "peak_bytes", "versions", "machine", "seed", "samples",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "trainer", "dtype"),
    [
        ("slice", "sft", "float32"),
        ("slice", "dpo", "bfloat16"),
        ("freeze", "dpo", "float32"),
        ("freeze", "sft", "bfloat16"),
        ("lora", "sft", "float32"),
    ],
)
def test_a_run_proves_what_it_says(tmp_path, mode, trainer, dtype, capsys):
    select = {"budget": "40%"} if mode == "freeze" else {}
    asked = recipe(tmp_path, dtype=dtype, train={"mode": mode, "trainer": trainer}, select=select)
    result = run(asked)
    folder = tmp_path / "run"
    assert set(result) == KEYS
    assert json.loads((folder / "run.json").read_text()) == result
    assert all(check["ok"] for check in result["checks"])
    assert result["reload"]["max_difference"] == 0
    assert 0 < result["trainable"] <= float(asked.select.budget.rstrip("%")) / 100 * result["total"]
    assert result["control"]["random"]["trainable"] == pytest.approx(result["trainable"], rel=0.25)
    assert result["loss"][-1][0] == 6
    assert result["retention"]["after"]["kl"] > 0
    assert result["retention"]["before"]["kl"] == 0
    assert ("preference_accuracy" in result["after"]) == (trainer == "dpo")
    assert (folder / "report.html").stat().st_size > 10_000
    assert Recipe.load(str(folder / "recipe.yaml")) == asked
    assert Plan.load(folder / "plan.json").selection == Selection.load(folder / "selection.json")
    made: dict = {}
    exec("\n".join(result["use"]), made)  # noqa: S102
    probe, kept = (
        stages.probe(stages.Run(asked)),
        torch.from_numpy(read_arrays(folder / "probe.safetensors")["logits"]),
    )
    assert torch.equal(probe_logits(made["model"].eval(), probe), kept), "the lines that use it do"
    assert made["tokenizer"]("1")["input_ids"]
    told = capsys.readouterr().out
    assert all(line in told for line in result["use"])
    for words in ("1 before", "2 localize", "3 select", "4 train", "5 evaluate", "6 control", "report.html"):
        assert words in told
    if mode == "slice" and trainer == "sft":
        model = AutoPeftModelForCausalLM.from_pretrained(folder / "adapter").eval()
        assert torch.equal(probe_logits(model, probe), kept)
        with model.disable_adapter():
            assert not torch.equal(probe_logits(model, probe), kept)


@pytest.mark.slow
def test_lost_held_out_text_is_sampled_from_the_base_again(tmp_path, finished):
    asked = again(finished, tmp_path, control="none")
    first = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "held_out.jsonl").unlink()
    (tmp_path / "run" / "stages" / "evaluate.json").unlink()
    assert run(asked, quiet=True)["retention"] == first["retention"]


def test_what_a_run_says_to_type_is_what_a_shell_reads(tmp_path, finished):
    told = run(again(finished, tmp_path / "my runs"), quiet=True)
    folder = tmp_path / "my runs" / "run"
    assert shlex.split(told["command"]) == ["guided-ft", "run", str(folder / "recipe.yaml")]
    words = shlex.split(told["use"][-1].removeprefix("# or: ").replace(",", " "))
    assert words == ["guided-ft", "chat", str(folder), "or", "guided-ft", "export", str(folder)]


@pytest.mark.slow
def test_what_is_unchanged_is_not_done_again(tmp_path, finished, monkeypatch):
    asked = again(finished, tmp_path)
    first = json.loads((tmp_path / "run" / "run.json").read_text())
    done: list[str] = []
    real = pipeline._do
    monkeypatch.setattr(
        pipeline, "_do", lambda run, stage, *keys: (done.append(stage.name), real(run, stage, *keys))[1]
    )
    second = run(asked, quiet=True)
    assert done == []
    # What it can be used with is told of the folder where it lies now.
    use = [line.replace(str(finished / "run"), str(tmp_path / "run")) for line in first["use"]]
    assert second == first | {"command": f"guided-ft run {tmp_path / 'run' / 'recipe.yaml'}", "use": use}

    def do(until=None, **changes):
        done.clear()
        run(recipe(finished, output=str(tmp_path / "run"), **changes), quiet=True, until=until)
        return done

    assert do(control="none") == []
    assert do(train={"steps": 4}) == ["train", "evaluate", "control"]
    assert do(train={"steps": 4}, select={"budget": "12%"}, control="none") == ["select", "train", "evaluate"]
    found = do(until="select", seed=1, control="none")
    assert found == ["localize", "select"], "what is measured before training is not asked for"


@pytest.mark.slow
def test_a_repeat_elsewhere_is_the_same_run(tmp_path, finished):
    first, second = json.loads((finished / "run" / "run.json").read_text()), run(recipe(tmp_path), quiet=True)
    assert adapter(finished / "run") == adapter(tmp_path / "run")
    for key in ("before", "after", "retention", "loss", "selected", "samples"):
        assert first[key] == second[key], key


@pytest.mark.slow
def test_ctrl_c_leaves_a_folder_that_continues(tmp_path, finished, monkeypatch):
    def interrupt(args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            "guided_ft.callback.callback.GuidedCallback.on_step_end", lambda self, *a, **k: interrupt(*a, **k)
        )
        with pytest.raises(KeyboardInterrupt):
            run(recipe(tmp_path, "cut", control="none"), quiet=True)
    assert not (tmp_path / "cut" / "run.json").exists()
    result = run(recipe(tmp_path, "cut", control="none"), quiet=True)
    resumed = json.loads((tmp_path / "cut" / "stages" / "train.json").read_text())["result"]["resumed_from"]
    assert resumed == "checkpoint-4"
    assert adapter(tmp_path / "cut") == adapter(finished / "run")
    assert len(result["loss"]) == 6


@pytest.mark.slow
def test_every_method_and_strategy_can_be_asked_for(tmp_path):
    for method in ("gradient", "ablation", "magnitude", "random"):
        result = run(recipe(tmp_path, f"m-{method}", localize={"method": method}), until="select", quiet=True)
        assert sum(result["select"]["counts"].values()) > 0
        assert ScoreMap.load(tmp_path / f"m-{method}" / "scores.safetensors").meta["method"] == method
    for strategy in ("bottom", "random", "shuffled"):
        run(recipe(tmp_path, f"s-{strategy}", select={"strategy": strategy}), until="select", quiet=True)


def test_retention_can_be_the_users_own_text_or_none(tmp_path):
    (tmp_path / "own.txt").write_text("some text of mine\nand another line\n")
    own = run(recipe(tmp_path, "own", evaluate={"retention": str(tmp_path / "own.txt")}), until="before", quiet=True)
    none = run(recipe(tmp_path, "none", evaluate={"retention": "none"}), until="before", quiet=True)
    self_ = run(recipe(tmp_path, "self"), until="before", quiet=True)
    assert none["before"]["retention"] is None
    assert own["before"]["retention"]["loss"] != self_["before"]["retention"]["loss"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "no/such-model"}, "model: 'no/such-model' cannot be loaded"),
        ({"select": {"budget": "0.001%"}}, "budget: 0.001% buys nothing: L"),
        ({"localize": {"retain": "none.jsonl"}}, "localize.retain: 'none.jsonl': no such file"),
        ({"localize": {"options": {"stepz": 3}}}, "localize.options.stepz: no option of method attribution"),
        (
            {"train": {"learning_rate": 1e30, "steps": 1}},
            "stage evaluate: what was measured is not finite (check the data, or lower the learning rate)",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, changes, message):
    with pytest.raises(GuidedError) as error:
        run(recipe(tmp_path, **changes), quiet=True)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "trainer", "message"),
    [
        (lambda i: {"prompt": f"{i}"}, "sft", "rows.jsonl:1: no known format has the columns 'prompt'"),
        (lambda i: {"prompt": f"{i}", "completion": " 1"}, "dpo", "data: the rows are single answers, and trainer dpo"),
        (
            lambda i: {k: [{"role": "user", "content": f"{i}"}] for k in ("prompt", "completion")},
            "sft",
            "no chat template",
        ),
    ],
)
def test_wrong_rows_are_told_before_the_model_is_loaded(tmp_path, monkeypatch, row, trainer, message):
    monkeypatch.setattr(stages, "load_model", lambda *a, **k: pytest.fail("the model was loaded"))
    settings = recipe(tmp_path, train={"trainer": trainer}).to_dict()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(40)))
    settings["data"]["path"] = str(tmp_path / "rows.jsonl")
    with pytest.raises(GuidedError, match=message):
        run(Recipe.from_dict(settings), quiet=True)


def test_a_curve_ends_with_the_training_however_seldom_it_logs(tmp_path):
    def curve(name, **arguments):
        asked = recipe(tmp_path, name, train={"arguments": arguments}, localize={"retain": "none"}, **QUICK)
        return run(asked, until="train", quiet=True)["train"]["loss"]

    each = [loss for _, loss in curve("each")]
    mean = pytest.approx(sum(each) / 6, rel=1e-3)
    assert curve("beyond", logging_steps=50) == [[6, mean]]
    assert curve("none", logging_strategy="no") == [[6, mean]]
    assert [step for step, _ in curve("some", logging_steps=4)] == [4, 6]


def test_an_unknown_stage_is_named(tmp_path):
    with pytest.raises(GuidedError, match=r"until: unknown value 'trian' \(did you mean 'train'"):
        run(recipe(tmp_path), until="trian")
