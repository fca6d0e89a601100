"""The drop-in scripts run as they are, on a tiny model."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from families import make
from peft import PeftModel

from guided_ft.selection.budget import parse_budget
from guided_ft.selection.settings import SelectOptions

SCRIPTS = sorted((Path(__file__).parents[2] / "recipes" / "scripts").glob("*.py"))


def test_there_are_three_and_each_has_its_one_line() -> None:
    assert [path.stem for path in SCRIPTS] == ["dpo", "sft", "trainer"]
    for path in SCRIPTS:
        lines = path.read_text().splitlines()
        assert [line.strip().split("GuidedCallback(")[0] for line in lines if "the one line" in line] == ["callbacks=["]
        assert len(lines) <= 60


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_trains_two_steps_and_saves_an_adapter(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), *arguments_for(path, tmp_path)])
    runpy.run_path(str(path), run_name="__main__")
    check_trained(tmp_path / "out")


@pytest.mark.slow
def test_two_processes_run_a_script_as_it_is(tmp_path: Path) -> None:
    [sft] = [path for path in SCRIPTS if path.stem == "sft"]
    arguments = arguments_for(sft, tmp_path)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*launch, str(sft), *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("chose ") == 1, "the first process tells for both"
    check_trained(tmp_path / "out")


def test_the_launch_lines_name_scripts_and_options_that_there_are() -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser

    folder = SCRIPTS[0].parent
    lines = re.findall(r"`((?:python|torchrun|accelerate launch) [^`]*\.py [^`]*)`", (folder / "README.md").read_text())
    assert len(lines) == 7
    parsers = {"torchrun": get_args_parser(), "accelerate": launch_command_parser()}
    for line in lines:
        program, *words = line.removesuffix(" ...").replace("accelerate launch", "accelerate").split()
        assert any((folder / word).is_file() for word in words if word.endswith(".py")), line
        if program in parsers:
            assert str(getattr(parsers[program].parse_args(words), "training_script", "")).endswith("sft.py"), line
    assert load_config_from_file(str(folder / "fsdp.json")).fsdp_config["fsdp_version"] == 2
    diff = re.findall(r"^\+ +(.*),$", (folder / "README.md").read_text(), re.MULTILINE)
    assert all(f"{diff[0]}," in path.read_text() for path in SCRIPTS if path.stem != "trainer")


def arguments_for(path: Path, tmp_path: Path) -> list[str]:
    """What to call a script with, on a tiny model and a few rows."""
    base, data, out = tmp_path / "base", tmp_path / "data", tmp_path / "out"
    make("llama").save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    data.mkdir()
    rows = tiny.pairs(16) if path.stem == "dpo" else tiny.sums(16)
    if path.stem == "trainer":
        (data / "train.txt").write_text("\n\n".join(row["prompt"] + row["completion"] for row in rows))
        own = ["--model", str(base), "--file", str(data / "train.txt")]
    else:
        (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        own = ["--model_name_or_path", str(base), "--dataset_name", str(data)]
    usual = ["--output_dir", str(out), "--max_steps", "2", "--per_device_train_batch_size", "2", "--use_cpu", "true"]
    more = ["--bf16", "false", "--report_to", "none", "--save_strategy", "no", "--disable_tqdm", "true"]
    return [*own, *usual, *more]


def check_trained(out: Path) -> None:
    model = PeftModel.from_pretrained(make("llama"), out, is_trainable=True)
    trained = [p for name, p in model.named_parameters() if "lora_B" in name]
    total = sum(p.numel() for p in make("llama").parameters())
    assert 0 < sum(p.numel() for p in trained) <= parse_budget(SelectOptions.budget, total)
    assert any(p.abs().max() > 0 for p in trained), "two steps have moved something"
